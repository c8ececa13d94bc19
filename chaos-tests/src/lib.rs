//! Stories on real processes: a cluster in network namespaces, people's clients, and faults.
//!
//! Nothing depends on this crate. `tests/cluster.rs` runs [`stories::ALL`] in order against one
//! cluster; each story leaves the cluster healthy and its own namespace gone.

pub mod cluster;
pub mod fuzz;
pub mod load;
pub mod ratchet;
pub mod stories;
pub mod wait;

/// The checkout. Asked at run time, not at build time: checkouts may share one target directory.
///
/// # Panics
/// When Cargo did not start this program.
#[must_use]
pub fn checkout() -> std::path::PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo test runs this");
    std::path::Path::new(&here).parent().expect("the crate lies in the workspace").to_owned()
}
