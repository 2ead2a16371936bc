//! What a driver can do beyond the core.

/// Something that not every hypervisor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ability {
    /// Name as shown to the user.
    pub name: &'static str,
    /// Whether the driver has it.
    pub available: bool,
    /// The most at a time, where it is counted.
    pub most: Option<u32>,
}

/// The table of abilities that a driver declares. Each field is a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Disks can be added to a running VM; the number is the most at a time.
    pub disk_plug: Option<u16>,
    /// A read-only disk can be several files, one after the other; the number is the most of them.
    pub disk_files: Option<u16>,
    /// Taps can be connected to the NIC slots of a running VM; the number is the most slots.
    pub nic_plug: Option<u32>,
    /// A running VM can be stopped in its tracks and continued.
    pub pause: bool,
    /// A VM can be saved and cloned from the save.
    pub snapshot: bool,
    /// Memory can be added to and taken from a running VM.
    pub memory_resize: bool,
    /// Virtual processors can be added to and taken from a running VM.
    pub vcpu_resize: bool,
    /// Directories of the host can be shared with the guest.
    pub share: bool,
    /// Memory that the guest does not use goes back to the host.
    pub balloon: bool,
}

impl Abilities {
    /// Name of the ability to plug a disk of several files.
    pub const DISK_FILES: &'static str = "disk of several files";

    /// The table, row by row, in the order in which it is shown.
    pub fn rows(&self) -> [Ability; 9] {
        let row = |name, available| Ability { name, available, most: None };
        let counted = |name, most: Option<u32>| Ability { name, available: most.is_some(), most };
        [
            counted("disk plug", self.disk_plug.map(u32::from)),
            counted(Self::DISK_FILES, self.disk_files.map(u32::from)),
            counted("nic plug", self.nic_plug),
            row("pause", self.pause),
            row("snapshot", self.snapshot),
            row("memory resize", self.memory_resize),
            row("vcpu resize", self.vcpu_resize),
            row("share", self.share),
            row("balloon", self.balloon),
        ]
    }
}
