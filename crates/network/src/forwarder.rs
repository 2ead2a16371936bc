//! A name forwarder on the gateway address.
