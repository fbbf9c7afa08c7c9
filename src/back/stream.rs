//! Writes files whose layout is known before their weights are computed.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ir::Weight;

/// Called with the number of bytes that have just been written.
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;

/// Bytes at an offset of a file.
pub(super) enum Piece<'a> {
    /// Bytes that are there.
    Bytes(u64, Vec<u8>),
    /// A weight that is computed when its turn comes.
    Weight(u64, &'a Weight),
}

/// Memory that computing weights may take, in bytes, where no range of rows needs more.
const WORKING_MEMORY: usize = 256 << 20;

/// The memory of computing a weight for each element: two copies in 32 bits, one of them joined or transposed, and one in a
/// shorter type.
const BYTES_FOR_AN_ELEMENT: usize = 4 + 4 + 1;

/// Writes the pieces of a file of that length, in parallel: each range of rows of a weight is computed, written at its offset
/// and freed. The file is complete and synced when this returns.
pub(super) fn write_pieces(path: &Path, pieces: &[Piece<'_>], len: u64, progress: &Progress<'_>) -> Result<()> {
    let refused = |e: std::io::Error| Error::io("writing", path, &e);
    let file = File::create(path).map_err(refused)?;
    file.set_len(len).map_err(refused)?;
    let parts: Vec<Part> = pieces.iter().flat_map(parts).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers(&parts)).build();
    let pool = pool.map_err(|e| Error::machine_failed(format!("threads do not start: {e}")))?;
    let write = |part: &Part| {
        match part {
            Part::Bytes(at, bytes) => write_at(&file, bytes, *at).map_err(refused)?,
            Part::Rows(at, weight, rows) => {
                let evaluated = weight.evaluate_rows(rows.clone())?;
                let bytes = evaluated.as_bytes();
                if bytes.len() != rows.len() * row_len(weight) {
                    return Err(Error::bug(format!("{} rows of {weight:?} have {} bytes", rows.len(), bytes.len())));
                }
                write_at(&file, bytes, *at).map_err(refused)?;
                progress(bytes.len() as u64);
            }
        }
        Ok(())
    };
    pool.install(|| parts.par_iter().try_for_each(write))?;
    file.sync_all().map_err(refused)
}

/// What a thread writes at a time.
enum Part<'a> {
    Bytes(u64, &'a [u8]),
    Rows(u64, &'a Weight, Range<usize>),
}

fn parts<'a>(piece: &'a Piece<'_>) -> Vec<Part<'a>> {
    match piece {
        Piece::Bytes(at, bytes) => vec![Part::Bytes(*at, bytes)],
        Piece::Weight(at, weight) => {
            let ranges = weight.row_ranges().into_iter();
            ranges.map(|rows| Part::Rows(at + (rows.start * row_len(weight)) as u64, weight, rows)).collect()
        }
    }
}

/// The length of a row in bytes.
fn row_len(weight: &Weight) -> usize {
    weight.byte_len() / weight.shape().first().copied().unwrap_or(1).max(1)
}

/// How many threads compute weights: as many as there are cores, but no more than [`WORKING_MEMORY`] lets work on the
/// largest range of rows at once. An allocator may keep what a thread has freed, so it is the threads that are bounded.
fn workers(parts: &[Part]) -> usize {
    let largest = parts.iter().map(|part| match part {
        Part::Rows(_, weight, rows) if !weight.is_stored() => rows.len() * row_len(weight) / weight.dtype().size(),
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
    fn large_ranges_are_computed_by_fewer_threads_and_stored_ones_by_all() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(64).build().unwrap();
        let stored = |k: usize| Weight::source("w", DType::F32, vec![40, k], None).unwrap();
        let workers_for = |weight: &Weight| pool.install(|| workers(&parts(&Piece::Weight(0, weight))));
        assert_eq!(workers_for(&stored(1 << 20)), 64);
        assert_eq!(workers_for(&stored(1 << 14).cast(DType::F16)), 45);
        assert_eq!(workers_for(&stored(1 << 22).cast(DType::F16)), 7);
        assert_eq!(workers_for(&stored(1 << 26).cast(DType::F16)), 1);
    }

    #[test]
    fn ranges_of_rows_follow_each_other_in_the_file() {
        let values: Vec<f32> = (0..3000 * 1000).map(|i| (i % 65_521) as f32).collect();
        let weight = Weight::f32s(vec![1000, 3000], &values).unwrap().transpose().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let pieces = [Piece::Weight(8, &weight), Piece::Bytes(0, b"12345678".to_vec())];
        assert!(parts(&pieces[0]).len() > 2);
        write_pieces(&path, &pieces, 8 + weight.byte_len() as u64, &|_| {}).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert_eq!(&written[..8], b"12345678");
        assert!(written[8..] == *weight.evaluate().unwrap().as_bytes());
    }
}
