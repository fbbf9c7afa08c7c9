//! A bundle as one file: a tar archive whose bytes depend on nothing but the bundle's.

mod read;
mod write;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

pub use read::unpack;
pub use write::pack;

/// Fails where a bundle is asked for and `path` is a file: an archive is to be unpacked first.
pub fn refuse(path: &Path) -> Result<()> {
    if !is_archive(path) {
        return Ok(());
    }
    let path = path.display();
    Err(Error::unsupported(format!("{path} is an archive, and engines are opened in a folder"))
        .hint(format!("kilnc bundle unpack {path} -o DIR")))
}

/// Whether a file is a tar archive, by what it begins with.
pub fn is_archive(path: &Path) -> bool {
    let mut block = [0; 512];
    let begins = path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut block)).is_ok();
    begins && block.get(257..262) == Some(b"ustar")
}
