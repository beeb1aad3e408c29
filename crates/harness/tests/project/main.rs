//! What the project says about itself, held against what it is.

mod dependencies;
mod promises;

use std::path::{Path, PathBuf};

/// The top of the source tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the sources are where they were built")
}
