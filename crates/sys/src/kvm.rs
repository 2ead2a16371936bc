//! How fast `/dev/kvm` runs the code of a guest kernel.
#![allow(unsafe_code, reason = "guest memory is handed to the kernel by address")]

use std::io;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

/// Bytes of the micro guest's memory: one page each for code, stack and three levels of page tables, rounded up.
const MEMORY: usize = 0x8000;
/// Where the code is.
const CODE: u64 = 0x4000;
/// Where the page tables are: PML4, PDPT, PD.
const TABLES: u64 = 0x1000;

// Bits of control registers (Intel SDM volume 3, section 2.5; AMD APM volume 2, section 3.1).
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
// Bits of page table entries.
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// `/dev/kvm` does not exist.
    #[error("/dev/kvm does not exist")]
    Absent(#[source] io::Error),
    /// `/dev/kvm` exists and cannot be opened.
    #[error("cannot open /dev/kvm")]
    Unreadable(#[source] io::Error),
    /// A step of making or running the guest failed.
    #[error("cannot {attempt}")]
    Step {
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The guest ended in another way than by `hlt`.
    #[error("the micro guest stopped with {0}")]
    Exit(String),
}

/// A virtual machine with one processor in 64-bit mode, ring 0, and a counting loop for a program.
pub struct MicroGuest {
    vcpu: VcpuFd,
    // Fields drop in order: the machine goes before the memory it maps.
    _vm: kvm_ioctls::VmFd,
    memory: Memory,
}

impl MicroGuest {
    /// Makes the guest.
    ///
    /// # Errors
    /// See [`KvmError`].
    pub fn new() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| {
            let source = io::Error::from_raw_os_error(error.errno());
            match error.errno() {
                libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Absent(source),
                _ => KvmError::Unreadable(source),
            }
        })?;
        let vm = kvm.create_vm().map_err(step("create a virtual machine"))?;
        let mut memory =
            Memory::new().map_err(|source| KvmError::Step { attempt: "map guest memory", source })?;
        memory.write(TABLES, &((TABLES + 0x1000) | PRESENT_WRITABLE).to_le_bytes());
        memory.write(TABLES + 0x1000, &((TABLES + 0x2000) | PRESENT_WRITABLE).to_le_bytes());
        memory.write(TABLES + 0x2000, &(PRESENT_WRITABLE | LARGE_PAGE).to_le_bytes());
        // dec rcx; jnz -5; hlt
        memory.write(CODE, &[0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4]);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.start.as_ptr() as u64,
        };
        // SAFETY: the region is a mapping of MEMORY bytes that lives until after the machine is dropped, and
        // is touched by us only while the processor does not run.
        unsafe { vm.set_user_memory_region(region) }.map_err(step("give memory to the virtual machine"))?;
        let vcpu = vm.create_vcpu(0).map_err(step("create a virtual processor"))?;
        enter_long_mode(&vcpu)?;
        Ok(Self { vcpu, _vm: vm, memory })
    }

    /// Runs `instructions` instructions (at least 2) in ring 0 and says how long that took.
    ///
    /// # Errors
    /// [`KvmError::Step`] and [`KvmError::Exit`].
    pub fn run(&mut self, instructions: u64) -> Result<Duration, KvmError> {
        let mut registers = self.vcpu.get_regs().map_err(step("read registers"))?;
        registers.rip = CODE;
        registers.rcx = (instructions / 2).max(1);
        registers.rflags = 2;
        self.vcpu.set_regs(&registers).map_err(step("set registers"))?;
        let start = Instant::now();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => return Ok(start.elapsed()),
                Ok(other) => return Err(KvmError::Exit(format!("{other:?}"))),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return Err(step("run the virtual processor")(error)),
            }
        }
    }

    /// Guest memory in bytes.
    pub fn memory_len(&self) -> usize {
        self.memory.len()
    }
}

fn step(attempt: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Step { attempt, source: io::Error::from_raw_os_error(error.errno()) }
}

/// 64-bit mode with flat segments and the first 2 MiB mapped to themselves. Long mode, because older
/// processors emulate real mode even where everything else runs natively.
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut special = vcpu.get_sregs().map_err(step("read system registers"))?;
    let flat = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    special.cs = kvm_segment { selector: 0x8, type_: 11, db: 0, l: 1, ..flat };
    (special.ds, special.es, special.ss) = (flat, flat, flat);
    (special.fs, special.gs) = (flat, flat);
    special.cr3 = TABLES;
    special.cr4 |= CR4_PAE;
    special.cr0 |= CR0_PE | CR0_ET | CR0_PG;
    special.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&special).map_err(step("set system registers"))
}

/// An anonymous mapping of [`MEMORY`] bytes, zeroed.
struct Memory {
    start: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Memory {}

impl Memory {
    fn new() -> io::Result<Self> {
        // SAFETY: a new private anonymous mapping; nothing existing is touched.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: NonNull::new(start.cast())
                .expect("mmap never answers with a null mapping of its own choice"),
        })
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("guest addresses here are small constants");
        assert!(at + bytes.len() <= MEMORY, "guest addresses here are constants inside the memory");
        // SAFETY: the range was checked to lie in the mapping, which only this value refers to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), bytes.len()) };
    }

    fn len(&self) -> usize {
        MEMORY
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference into it outlives this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), MEMORY) };
    }
}
