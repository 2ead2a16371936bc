//! What a VM is: the driver traits, the drivers and their contract suite.
