//! Writes files whose layout is known before their weights are computed.

use std::fs::File;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ir::Weight;

/// Called with the number of bytes that have just been written.
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;

/// Memory that computing weights may take, in bytes, where no single one needs more.
const WORKING_MEMORY: usize = 256 << 20;

/// The memory of computing a weight for each element: two copies in 32 bits, one of them joined or transposed, and one in a
/// shorter type.
const BYTES_FOR_AN_ELEMENT: usize = 4 + 4 + 1;

/// Bytes at an offset of a file.
pub(super) enum Piece<'a> {
    /// Bytes that are there.
    Bytes(u64, Vec<u8>),
    /// A weight that is computed when its turn comes.
    Weight(u64, &'a Weight),
}

/// Writes the pieces of a file of that length, in parallel: each weight is computed, written at its offset and freed.
/// The file is complete and synced when this returns.
pub(super) fn write_pieces(path: &Path, pieces: &[Piece<'_>], len: u64, progress: &Progress<'_>) -> Result<()> {
    let refused = |e: std::io::Error| Error::io("writing", path, &e);
    let file = File::create(path).map_err(refused)?;
    file.set_len(len).map_err(refused)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers(pieces)).build();
    let pool = pool.map_err(|e| Error::machine_failed(format!("threads do not start: {e}")))?;
    let write = |piece: &Piece| {
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
    };
    pool.install(|| pieces.par_iter().try_for_each(write))?;
    file.sync_all().map_err(refused)
}

/// How many threads compute weights: as many as there are cores, but no more than [`WORKING_MEMORY`] lets work on the
/// largest weight at once. An allocator may keep what a thread has freed, so it is the threads that are bounded.
fn workers(pieces: &[Piece]) -> usize {
    let largest = pieces.iter().map(|piece| match piece {
        Piece::Weight(_, weight) if !weight.is_stored() => weight.shape().iter().product::<usize>(),
        _ => 0,
    });
    let each = largest.max().unwrap_or(0).saturating_mul(BYTES_FOR_AN_ELEMENT).max(1);
    (WORKING_MEMORY / each).clamp(1, rayon::current_num_threads())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    #[test]
    fn large_weights_are_computed_by_fewer_threads_and_stored_ones_by_all() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(64).build().unwrap();
        let stored = |n: usize| Weight::source("w", DType::F32, vec![n, 1 << 10], None).unwrap();
        let workers_for = |weight: &Weight| pool.install(|| workers(&[Piece::Weight(0, weight)]));
        assert_eq!(workers_for(&stored(1 << 20)), 64);
        assert_eq!(workers_for(&stored(1 << 10).transpose().unwrap()), 28);
        assert_eq!(workers_for(&stored(9 << 10).transpose().unwrap()), 3);
        assert_eq!(workers_for(&stored(1 << 20).transpose().unwrap()), 1);
    }
}
