//! One byte stream between host and guest, multiplexed, versioned and resumable.
