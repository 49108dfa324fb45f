//! An allocator that counts the live bytes of the heap while it is told to: for the bench alone, in a package of its own as
//! an allocator cannot be written without `unsafe`, which credway forbids. Told nothing, it costs one load.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// Counts what `A` allocates.
pub struct LiveBytes<A>(pub A);

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicIsize = AtomicIsize::new(0);

/// Begins to count. What was allocated before is not in it.
pub fn begin() {
    IS_COUNTING.store(true, Ordering::Relaxed);
}

/// The bytes allocated since [`begin`] and not freed, as they were asked for.
pub fn live() -> isize {
    LIVE.load(Ordering::Relaxed)
}

fn count(bytes: isize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A layout is no larger than `isize::MAX`.
fn size(bytes: usize) -> isize {
    bytes.cast_signed()
}

// SAFETY: each call is handed on to `A` as it is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for LiveBytes<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: the caller keeps to the contract of `GlobalAlloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(size(bytes) - size(layout.size()));
        // SAFETY: as above.
        unsafe { self.0.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}
