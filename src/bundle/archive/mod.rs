//! A bundle as one file: a tar archive whose bytes depend on nothing but the bundle's.

mod read;
mod write;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};
use crate::presence;

pub use read::unpack;
pub use write::pack;

/// Fails where a bundle is expected and `path` is a file: an archive has to be unpacked first.
pub fn refuse(path: &Path) -> Result<()> {
    if !is_archive(path)? {
        return Ok(());
    }
    let path = path.display();
    Err(Error::unsupported(format!("{path} is an archive, and engines are opened in a folder"))
        .hint(format!("kilnc bundle unpack {path} -o DIR")))
}

/// Whether a file is a tar archive, by its first bytes. Fails where it cannot be read.
pub fn is_archive(path: &Path) -> Result<bool> {
    let mut block = [0; 512];
    if !presence::is_file(path)? {
        return Ok(false);
    }
    match File::open(path).and_then(|mut file| file.read_exact(&mut block)) {
        Ok(()) => Ok(block.get(257..262) == Some(b"ustar")),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(Error::io("reading", path, &e)),
    }
}
