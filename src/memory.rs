//! Memory that the machine refuses: a fault of the machine, with the exit code of one.
//!
//! A caller that can do without the memory gets an error. One that cannot aborts the process,
//! which ends it here: without children or half-written outputs left behind.

use std::alloc::{GlobalAlloc, Layout, System};
#[cfg(unix)]
use std::sync::atomic::AtomicI32;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// The system's allocator, which remembers that it has refused.
pub struct Memory;

static REFUSED: AtomicBool = AtomicBool::new(false);

/// Memory that is freed when there is no more, so that there is some for cleaning up.
static RESERVE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Of so many bytes: of a size that goes back to the system at once.
const RESERVED: Layout = match Layout::from_size_align(1 << 20, 16) {
    Ok(layout) => layout,
    Err(_) => Layout::new::<u8>(),
};

fn noted(place: *mut u8) -> *mut u8 {
    if place.is_null() {
        REFUSED.store(true, Ordering::SeqCst);
    }
    place
}

// SAFETY: the request is passed on to the system's allocator, and its result is returned.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        noted(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        noted(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        noted(unsafe { System.realloc(place, layout, size) })
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Ends the process with the machine's exit code where it aborts after memory was refused.
#[cfg(unix)]
pub fn end_cleanly_without() {
    use signal_hook::consts::SIGABRT;
    // SAFETY: the layout has a size.
    RESERVE.store(unsafe { System.alloc(RESERVED) }, Ordering::SeqCst);
    // SAFETY: an abort for want of memory comes from the thread that wanted it, outside of the allocator; locks that it
    // may hold are only tried. Every other abort is left as it is.
    let _ = unsafe { signal_hook::low_level::register(SIGABRT, end) };
}

#[cfg(unix)]
fn end() {
    /// The thread that tidies up.
    static TIDYING: AtomicI32 = AtomicI32::new(0);
    if !REFUSED.load(Ordering::SeqCst) {
        return;
    }
    let this = rustix::thread::gettid().as_raw_nonzero().get();
    match TIDYING.compare_exchange(0, this, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {
            let reserve = RESERVE.swap(std::ptr::null_mut(), Ordering::SeqCst);
            if !reserve.is_null() {
                // SAFETY: it was allocated so, and no other pointer to it exists.
                unsafe { System.dealloc(reserve, RESERVED) };
            }
            let _ = rustix::io::write(rustix::stdio::stderr(), b"error: the machine gives no more memory\n");
            kilnc::subprocess::end_all();
            kilnc::output::sweep_all();
        }
        // Not even for that.
        Err(first) if first == this => {}
        // Another thread that ran out of it: the first ends the process.
        Err(_) => std::thread::sleep(std::time::Duration::from_secs(10)),
    }
    signal_hook::low_level::exit(5);
}

#[cfg(not(unix))]
pub fn end_cleanly_without() {}
