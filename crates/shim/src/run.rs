//! The program, by its arguments.

use anyhow::Context as _;

use crate::args::{self, Action};
use crate::{delete, doctor, serve, start, templates};

/// Does what the command line says. `serve` returns when the shim has ended; `start` and `delete` print their answer
/// to standard output.
///
/// # Errors
/// With the whole chain of causes, for standard error.
pub fn run(words: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let args = args::parse(words)?;
    match args.action {
        Action::Version => {
            println!("containerd-shim-hyper-v2:\n  Version: {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Start => {
            let bundle = bundle(&args)?;
            let address = start::start(&args, &bundle).context("cannot start a shim")?;
            // Without a line end, as containerd reads it.
            print!("{address}");
            std::io::Write::flush(&mut std::io::stdout()).context("cannot print the address")
        }
        Action::Delete => delete::delete(&args, &bundle(&args)?),
        Action::Doctor => doctor::doctor(),
        Action::Template => templates::create(),
        Action::Serve => serve::serve(&args, &bundle(&args)?),
    }
}

fn bundle(args: &args::Args) -> anyhow::Result<std::path::PathBuf> {
    let here = std::env::current_dir().context("cannot tell the working directory")?;
    Ok(args.bundle.as_ref().map_or_else(|| here.clone(), |bundle| here.join(bundle)))
}
