//! What was told and is not written yet: bounded, and split by what was told, so that those who tell meet seldom.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::Told;
use crate::clock::Moment;
use crate::limits;

/// Something told, and when.
pub(super) struct Entry {
    pub told: Arc<dyn Told>,
    pub at: Moment,
}

impl Entry {
    /// Names what was told, for as long as it is queued.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.told).addr()
    }
}

/// What became of an entry.
pub(super) enum Pushed {
    Kept,
    /// Kept, and so many others that they are to be written soon. Said once between two takings.
    HalfFull,
    /// Not kept.
    Full,
}

pub(super) struct Queue {
    shards: Box<[Shard]>,
}

/// On a cache line of its own.
#[repr(align(64))]
struct Shard(Mutex<Vec<Entry>>);

const SHARD_ENTRIES: usize = limits::AUDIT_QUEUE_ENTRIES / limits::AUDIT_QUEUE_SHARDS;

impl Queue {
    pub(super) fn new() -> Self {
        let shard = || Shard(Mutex::new(Self::buffer()));
        Self { shards: std::iter::repeat_with(shard).take(limits::AUDIT_QUEUE_SHARDS).collect() }
    }

    /// What a shard fills before it is taken. Its memory is touched only as far as it is used.
    pub(super) fn buffer() -> Vec<Entry> {
        Vec::with_capacity(SHARD_ENTRIES)
    }

    pub(super) fn push(&self, entry: Entry) -> Pushed {
        // Allocations of one size lie side by side: the low bits say nothing, the next ones differ.
        const ALLOCATION_BITS: u32 = 8;
        let shard = (entry.address() >> ALLOCATION_BITS) % self.shards.len();
        let mut entries = self.shards[shard].entries();
        if entries.len() == SHARD_ENTRIES {
            return Pushed::Full;
        }
        entries.push(entry);
        if entries.len() == SHARD_ENTRIES / 2 { Pushed::HalfFull } else { Pushed::Kept }
    }

    /// Takes what is in each shard in turn into `buffer`, which is empty and has room, and is to be emptied by `each`.
    pub(super) fn take(&self, buffer: &mut Vec<Entry>, mut each: impl FnMut(&mut Vec<Entry>)) {
        for shard in &self.shards {
            std::mem::swap(&mut *shard.entries(), buffer);
            each(buffer);
            debug_assert!(buffer.is_empty() && buffer.capacity() >= SHARD_ENTRIES);
        }
    }
}

impl Shard {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
