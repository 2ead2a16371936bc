//! Addresses and subnets: which are free.
