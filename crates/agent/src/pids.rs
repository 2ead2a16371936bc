//! The PID namespace that the containers of a pod share, where they do.
//!
//! Its process 1 is a child of the agent that does nothing but collect orphans: so it lasts whichever container ends.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use hyper_sys::child::{self, PidNamespace, fork};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};

use crate::failure::{Attempt, Failed};
use crate::process::open_pidfd;
use crate::reaper::Reaper;

/// The namespace, made when the first container wants it.
#[derive(Debug, Default)]
pub(crate) struct SharedPids {
    holder: RefCell<Option<Rc<OwnedFd>>>,
}

impl SharedPids {
    /// A descriptor of the namespace's process 1.
    pub(crate) fn holder(&self, reaper: &Reaper) -> Result<Rc<OwnedFd>, Failed> {
        if let Some(holder) = &*self.holder.borrow() {
            return Ok(Rc::clone(holder));
        }
        let failed = || "make the PID namespace of the pod".to_owned();
        let (mut ready, writer) = std::io::pipe().attempt(failed)?;
        let pid = fork(PidNamespace::New, &[writer.as_fd()], || hold(&writer)).attempt(failed)?;
        drop(writer);
        // Nobody waits for its end; it is collected all the same.
        drop(reaper.register(pid));
        ready.read_exact(&mut [0]).attempt(failed)?;
        let holder = Rc::new(open_pidfd(pid)?);
        *self.holder.borrow_mut() = Some(Rc::clone(&holder));
        Ok(holder)
    }
}

/// Process 1 of the namespace. It is a copy of the agent, so nobody may look into it before anybody can.
fn hold(mut ready: &std::io::PipeWriter) -> u8 {
    child::block_signals();
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let tied = set_parent_process_death_signal(Some(Signal::KILL));
    if hidden.and(tied).is_err() || ready.write_all(&[0]).is_err() {
        return 1;
    }
    let _ = rustix::thread::set_name(c"pod-pids");
    loop {
        child::next_signal();
        while let Ok(Some(_)) = child::collect(None) {}
    }
}
