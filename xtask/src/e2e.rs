//! `cargo xtask e2e`: the tests that boot real guests, run against the release binaries.

use anyhow::Result;

use crate::{build, clock, project, static_program};

/// The package that holds the end-to-end tests.
pub const PACKAGE: &str = "hyper-e2e";

/// Builds what is tested, then runs the tests; `arguments` go to the test program.
///
/// The tests find the binaries by `HYPER_BIN`, the directory of the release binaries, and the program that prints a
/// guest's file tree by `HYPER_TREE`.
pub fn run(arguments: &[String]) -> Result<()> {
    build::run()?;
    let tree = clock::step("tree printer", || static_program::build(PACKAGE, "hyper-tree"))?;
    clock::step("end-to-end tests", || {
        let mut cargo = project::cargo();
        cargo.args(["test", "--package", PACKAGE, "--"]).args(arguments);
        project::run(cargo.env("HYPER_BIN", project::release()).env("HYPER_TREE", tree))
    })
}

/// Builds what is tested, then runs docker-py's integration tests against it and against a real dockerd.
pub fn docker_py(arguments: &[String]) -> Result<()> {
    build::run()?;
    clock::step("docker-py's tests", || {
        let mut cargo = project::cargo();
        cargo.args(["run", "--package", PACKAGE, "--bin", "hyper-docker-py", "--"]).args(arguments);
        project::run(cargo.env("HYPER_BIN", project::release()))
    })
}

/// Builds what is tested, then runs commands of docker's CLI against it and against a real dockerd.
pub fn docker_cli(chosen: Option<&str>) -> Result<()> {
    build::run()?;
    clock::step("docker's command line", || {
        let mut cargo = project::cargo();
        cargo.args(["run", "--package", PACKAGE, "--bin", "hyper-docker-cli", "--"]).args(chosen);
        project::run(cargo.env("HYPER_BIN", project::release()))
    })
}
