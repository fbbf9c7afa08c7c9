//! SHA-256 in hexadecimal, of bytes and of files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes of a file that are read at once.
const PIECE: usize = 1 << 18;

/// A digest that is being made.
#[derive(Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

impl std::fmt::Write for Digester {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.update(text.as_bytes());
        Ok(())
    }
}

/// The digest of bytes.
pub fn of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The length and the digest of a file. Links are followed.
pub fn of_file(path: &Path) -> Result<(u64, String)> {
    let failed = |e: io::Error| Error::io("reading", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let mut digester = Digester::default();
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        if read == 0 {
            return Ok((bytes, digester.finish()));
        }
        digester.update(piece.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| digits(*byte)).map(char::from).collect()
}

/// A byte in hexadecimal.
fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [byte >> 4, byte & 15].map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha256() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of(b"abc"), expected);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "abc").unwrap();
        assert_eq!(of_file(&dir.path().join("x")).unwrap(), (3, expected.to_owned()));
        let mut parts = Digester::default();
        parts.update(b"a");
        std::fmt::Write::write_str(&mut parts, "bc").unwrap();
        assert_eq!(parts.finish(), expected);
    }
}
