//! `cargo xtask dist`: what a package has besides the programs: manual pages, shell completions, systemd units.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::project;

/// Where each shell looks for completions, below `share/`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/hyper"),
    ("zsh", "zsh/site-functions/_hyper"),
    ("fish", "fish/vendor_completions.d/hyper.fish"),
];

/// Puts them into `share/` and `lib/systemd/system/` below the directory of the release binaries.
///
/// # Errors
/// The CLI is not built, or a file cannot be written.
pub fn run() -> Result<()> {
    let release = project::release();
    let hyper = release.join("hyper");
    ensure!(hyper.exists(), "{} does not exist: run `cargo xtask build`", hyper.display());
    let share = release.join("share");
    project::run(Command::new(&hyper).arg("man-pages").arg(share.join("man/man1")))?;
    for (shell, file) in COMPLETIONS {
        let output = Command::new(&hyper).args(["completion", shell]).output().context("running hyper")?;
        ensure!(output.status.success(), "hyper completion {shell}: {}", output.status);
        write(&share.join(file), &output.stdout)?;
    }
    let units = project::root().join("dist/systemd");
    for unit in fs::read_dir(&units).with_context(|| format!("reading {}", units.display()))? {
        let unit = unit?;
        let name = unit.file_name();
        let directory = match name.to_str().and_then(|name| name.strip_suffix(".sysusers")) {
            Some(stem) => release.join(format!("lib/sysusers.d/{stem}.conf")),
            None => release.join("lib/systemd/system").join(&name),
        };
        write(&directory, &fs::read(unit.path())?)?;
    }
    println!("{}", release.display());
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}
