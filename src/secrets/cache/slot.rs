//! One entry of the cache: what is held of a secret, and whether it is being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;

use super::state::Held;
use crate::clock::Moment;
use crate::model::secret::{ExposeSecret, SecretAddress};

pub(super) struct Slot {
    pub held: Held,
    /// A read is under way whose outcome will take this slot's place.
    is_read: AtomicBool,
    /// A caller lost its patience with that read. Nobody need lose it again.
    is_given_up: AtomicBool,
    /// How long it is kept in memory.
    life: Duration,
}

/// A read of a slot's secret that is under way.
pub(super) struct Reading(Arc<Slot>);

impl Slot {
    pub(super) fn new(held: Held, now: Moment) -> Arc<Self> {
        let life = held.use_from(now);
        Arc::new(Self { held, is_read: AtomicBool::new(false), is_given_up: AtomicBool::new(false), life })
    }

    /// The read that is to be, unless there is one already.
    pub(super) fn begin_read(self: &Arc<Self>) -> Option<Reading> {
        (!self.is_read.swap(true, Ordering::AcqRel)).then(|| Reading(Arc::clone(self)))
    }

    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }

    /// Whether a caller lost its patience with a read that is still under way.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire) && self.is_read.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> u32 {
        // What moka and the maps spend on an entry and a field beside their text; measured, rounded up.
        const ENTRY_BYTES: usize = 500;
        const FIELD_BYTES: usize = 64;
        let fields = self.held.value().into_iter().flat_map(|value| &value.document.fields);
        let text: usize = fields.map(|(name, value)| name.len() + value.expose_secret().len() + FIELD_BYTES).sum();
        u32::try_from(ENTRY_BYTES + text).unwrap_or(u32::MAX)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.is_read.store(false, Ordering::Release);
    }
}

/// Lets slots leave the memory when they are of no more use. Their age is judged by our own clock, never by this.
pub(super) struct Life;

impl Expiry<SecretAddress, Arc<Slot>> for Life {
    fn expire_after_create(&self, _: &SecretAddress, slot: &Arc<Slot>, _: Instant) -> Option<Duration> {
        Some(slot.life)
    }

    fn expire_after_update(
        &self,
        _: &SecretAddress,
        slot: &Arc<Slot>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(slot.life)
    }
}
