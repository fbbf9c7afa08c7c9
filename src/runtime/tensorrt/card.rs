//! A GPU by its driver: a stream on it, and memory that grows with its content.
//!
//! The driver's library is opened at run time. Nothing here has run yet where there is a GPU.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, sys};

use crate::error::{Error, Result};
use crate::runtime::Gpu;

/// A GPU that is open.
pub(super) struct Card {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

/// Memory of a GPU. It stays where it is as long as its content fits: captured graphs hold its address.
#[derive(Default)]
pub(super) struct Buffer(Option<CudaSlice<u8>>);

impl Card {
    /// The GPU of that number. Fails with the driver's own name for the error.
    pub fn open(number: u32) -> Result<Card> {
        // SAFETY: opening the driver's library runs its initializers, as every use of a GPU does.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::runtime_missing(format!(
                "cuda:{number} cannot be used: the driver's library libcuda.so.1 is there and does not load"
            ))
            .hint(
                "`ldconfig -p | grep libcuda` says which the system finds; a library for another architecture is none",
            ));
        }
        let failed = |e: DriverError| {
            Error::runtime_missing(format!("cuda:{number} cannot be used: {}", named(e)))
                .hint("`nvidia-smi` says which GPUs the driver knows")
        };
        let context = CudaContext::new(number as usize).map_err(failed)?;
        // SAFETY: all work and all memory is of the one stream, so that no event has to order two.
        unsafe { context.disable_event_tracking() };
        // The default stream lets no graph be captured.
        let stream = context.new_stream().map_err(failed)?;
        Ok(Card { context, stream })
    }

    /// The driver's properties of it.
    pub fn gpu(&self) -> Result<Gpu> {
        let name = self.context.name().map_err(refused("naming the GPU"))?;
        let (major, minor) = self.context.compute_capability().map_err(refused("reading its capability"))?;
        Ok(Gpu { name, capability: u32::try_from(major * 10 + minor).unwrap_or_default() })
    }

    /// Has this thread's calls of CUDA go to this GPU.
    pub fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(refused("choosing the GPU"))
    }

    /// The stream that all work goes to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Copies bytes into a buffer that has room for them, as soon as earlier work is done.
    pub fn write(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        let memory = buffer.0.as_mut().filter(|memory| memory.len() >= bytes.len());
        let memory = memory.ok_or_else(|| Error::bug("a buffer is smaller than its new content"))?;
        self.stream.memcpy_htod(bytes, memory).map_err(refused("copying to the GPU"))
    }

    /// Grows a buffer to at least so many bytes. Its content is lost where it grows.
    pub fn reserve(&self, bytes: usize, buffer: &mut Buffer) -> Result<()> {
        if buffer.0.as_ref().is_none_or(|memory| memory.len() < bytes) {
            // Nothing uses the smaller one any more once the stream is done.
            self.finish()?;
            let room = room(bytes);
            let allocated = self.stream.alloc_zeros::<u8>(room);
            buffer.0 = Some(allocated.map_err(refused(&format!("reserving {room} bytes on the GPU")))?);
        }
        Ok(())
    }

    /// The first bytes of a buffer, once all work is done.
    pub fn read(&self, bytes: usize, buffer: &Buffer) -> Result<Vec<u8>> {
        let memory = buffer.0.as_ref().and_then(|memory| memory.try_slice(..bytes));
        let memory = memory.ok_or_else(|| Error::bug("a buffer is smaller than its content"))?;
        let mut host = vec![0; bytes];
        self.stream.memcpy_dtoh(&memory, &mut host).map_err(refused("copying from the GPU"))?;
        self.finish()?;
        Ok(host)
    }

    /// Waits until all work is done.
    pub fn finish(&self) -> Result<()> {
        self.stream.synchronize().map_err(refused("running on the GPU"))
    }

    /// Where a buffer is, as TensorRT takes it.
    pub fn place(&self, buffer: &Buffer) -> Result<*mut c_void> {
        let memory = buffer.0.as_ref().ok_or_else(|| Error::bug("a buffer has no memory"))?;
        let (place, _done) = memory.device_ptr(&self.stream);
        usize::try_from(place).map(|place| place as *mut c_void).map_err(|_| Error::bug("an address past all memory"))
    }
}

/// The bytes that are reserved for so many: a power of two, so that few sizes are reserved in all.
fn room(bytes: usize) -> usize {
    bytes.max(256).checked_next_power_of_two().unwrap_or(bytes)
}

/// The driver's error, with the call that failed.
pub(super) fn refused(doing: &str) -> impl Fn(DriverError) -> Error {
    move |e| Error::runtime_missing(format!("{doing} failed: {}", named(e)))
}

/// `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
fn named(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{:?} ({})", error.0, text.to_string_lossy()),
        Err(_) => format!("{:?}", error.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_in_few_steps() {
        assert_eq!([0, 1, 256, 257, 5 << 20].map(room), [256, 256, 256, 512, 8 << 20]);
        assert_eq!(room(usize::MAX), usize::MAX);
    }
}
