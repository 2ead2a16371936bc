//! Our nftables rules.
