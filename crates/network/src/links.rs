//! Links, addresses and routes by netlink.
