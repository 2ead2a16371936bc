//! Pulls one image into a store and prints how long it took: `pull DIRECTORY IMAGE`.

use std::path::Path;
use std::time::Instant;

use hyper_image::{Reference, RegistryConfig, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, image] = arguments.as_slice() else {
        return Err("usage: pull DIRECTORY IMAGE".into());
    };
    let directory = Path::new(directory);
    std::fs::create_dir_all(directory)?;
    let store =
        Store::open(&directory.join("images"), &directory.join("hyper.db"), RegistryConfig::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let start = Instant::now();
    let outcome = runtime.block_on(store.pull(&Reference::parse(image)?, None, None, |_| {}))?;
    println!(
        "{} in {:.2} s, up to date: {}",
        outcome.image_id,
        start.elapsed().as_secs_f64(),
        outcome.up_to_date
    );
    Ok(())
}
