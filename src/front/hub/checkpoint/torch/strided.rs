//! Views of storages as weights: in place where the elements follow each other, gathered where they do not.

use std::ops::Range;
use std::sync::Arc;

use super::value::Tensor;
use crate::error::{Error, Result, printable};
use crate::ir::{Blob, Weight};

type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The bytes that may be gathered beyond the file's own size.
const SPARE: usize = 1 << 20;

/// Makes weights of the views of a file, and counts the gathered bytes: all of it together may take as many
/// bytes as the file, so that a small file whose strides repeat elements cannot fill the memory.
pub(super) struct Views {
    file: Bytes,
    budget: usize,
}

impl Views {
    /// The views of a file.
    pub(super) fn new(file: Bytes) -> Views {
        let budget = (*file).as_ref().len().saturating_add(SPARE);
        Views { file, budget }
    }

    /// The tensor `name`, whose storage is the bytes `record` of the file.
    pub(super) fn weight(&mut self, name: &str, tensor: &Tensor<'_>, record: Range<usize>) -> Result<Weight> {
        if record.len() != tensor.storage.byte_len {
            return Err(Error::bad_input(format!(
                "tensor `{}`: its storage `{}` has {} bytes, but {} elements need {}",
                printable(name),
                printable(tensor.storage.key),
                record.len(),
                tensor.storage.numel,
                tensor.storage.byte_len
            )));
        }
        let count = checked_count(name, tensor)?;
        let size = tensor.dtype.size();
        let dimensions = dimensions(tensor);
        let blob = if count == 0 {
            Blob::new(self.file.clone(), record.start..record.start)
        } else if contiguous(&dimensions) {
            let start = record.start + tensor.offset * size;
            Blob::new(self.file.clone(), start..start + count * size)
        } else {
            self.spend(name, count * size)?;
            let storage = (*self.file).as_ref().get(record).unwrap_or_default();
            let gathered = gather(storage, size, tensor.offset, &dimensions, count);
            gathered.and_then(|bytes| Blob::new(Arc::new(bytes), 0..count * size))
        };
        let blob = blob.ok_or_else(|| Error::bug("a checked view is outside its storage"))?;
        Weight::source(name, tensor.dtype, tensor.shape.clone(), Some(blob))
    }

    fn spend(&mut self, name: &str, bytes: usize) -> Result<()> {
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| {
            Error::bad_input(format!(
                "tensor `{}` repeats its elements over {bytes} bytes, more than the file has",
                printable(name)
            ))
        })?;
        Ok(())
    }
}

/// The number of elements. Fails where their size overflows or one of them is outside the storage.
fn checked_count(name: &str, tensor: &Tensor<'_>) -> Result<usize> {
    let overflow = || Error::bad_input(format!("tensor `{}`: its size overflows", printable(name)));
    let bytes = tensor.shape.iter().try_fold(tensor.dtype.size(), |bytes, n| bytes.checked_mul(*n));
    let count = bytes.ok_or_else(overflow)? / tensor.dtype.size();
    if count == 0 {
        return Ok(0);
    }
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |last, (n, stride)| last.checked_add((n - 1).checked_mul(*stride)?));
    let elements = tensor.storage.byte_len / tensor.dtype.size();
    match last {
        Some(last) if last < elements => Ok(count),
        _ => Err(Error::bad_input(format!(
            "tensor `{}`: offset {} and strides {:?} over shape {:?} leave its storage of {elements} elements",
            printable(name),
            tensor.offset,
            tensor.strides,
            tensor.shape
        ))),
    }
}

/// The dimensions along which there is a step to take: size and stride, outermost first.
fn dimensions(tensor: &Tensor<'_>) -> Vec<(usize, usize)> {
    let pairs = tensor.shape.iter().copied().zip(tensor.strides.iter().copied());
    pairs.filter(|(size, _)| *size != 1).collect()
}

fn contiguous(dimensions: &[(usize, usize)]) -> bool {
    let mut expected = 1;
    dimensions.iter().rev().all(|(size, stride)| {
        let fits = *stride == expected;
        expected *= size;
        fits
    })
}

fn gather(storage: &[u8], size: usize, offset: usize, dimensions: &[(usize, usize)], count: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0; dimensions.len()];
    let mut at = offset;
    for _ in 0..count {
        bytes.extend_from_slice(storage.get(at * size..(at + 1) * size)?);
        for (i, (n, stride)) in index.iter_mut().zip(dimensions).rev() {
            *i += 1;
            at += stride;
            if *i < *n {
                break;
            }
            at -= n * stride;
            *i = 0;
        }
    }
    Some(bytes)
}
