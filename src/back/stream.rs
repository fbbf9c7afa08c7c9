//! Writes files whose layout is known before their weights are computed.

use std::fs::File;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ir::Weight;

/// Called with the number of bytes that have just been written.
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;

/// Bytes at a place of a file.
pub(super) enum Piece<'a> {
    /// Bytes that are there.
    Bytes(u64, Vec<u8>),
    /// A weight that is computed when its turn comes.
    Weight(u64, &'a Weight),
}

/// Writes the pieces of a file of that length, in parallel: each weight is computed, written to its place and let go.
/// The file is complete and synced when this returns.
pub(super) fn write_pieces(path: &Path, pieces: &[Piece<'_>], len: u64, progress: &Progress<'_>) -> Result<()> {
    let refused = |e: std::io::Error| Error::io("writing", path, &e);
    let file = File::create(path).map_err(refused)?;
    file.set_len(len).map_err(refused)?;
    pieces.par_iter().try_for_each(|piece| {
        match piece {
            Piece::Bytes(at, bytes) => write_at(&file, bytes, *at).map_err(refused)?,
            Piece::Weight(at, weight) => {
                let evaluated = weight.evaluate()?;
                let bytes = evaluated.as_bytes();
                if bytes.len() != weight.byte_len() {
                    return Err(Error::bug(format!("{weight:?} evaluated to {} bytes", bytes.len())));
                }
                write_at(&file, bytes, *at).map_err(refused)?;
                progress(bytes.len() as u64);
            }
        }
        Ok(())
    })?;
    file.sync_all().map_err(refused)
}

/// Longest single write. A file takes one write at a time; a long one would keep the other threads waiting.
#[cfg(unix)]
const LONGEST_WRITE: usize = 2 << 20;

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let mut at = at;
    for chunk in bytes.chunks(LONGEST_WRITE) {
        std::os::unix::fs::FileExt::write_all_at(file, chunk, at)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        at += written as u64;
    }
    Ok(())
}
