//! Other firewalls on the host that would stop forwarded packets.
