//! Makes the test images unless they are there, and prints the directory of a
//! registry that holds them all (`rootdirectory` of `docker-registry`).

fn main() {
    println!("{}", hyper_e2e::images::registry_storage().display());
}
