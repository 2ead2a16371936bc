//! References, registries, the content store and layers as EROFS disks.
