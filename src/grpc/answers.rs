//! Answers that are given again: to the same question of the same caller, for as long as nothing changes that they were made of.
//!
//! They are kept as the bytes that go over the wire. A question is who asks (the claim, whose verdict is part of the answer),
//! the project named, and the request's own bytes: whatever differs makes another question.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use prost::Message;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use zeroize::Zeroizing;

use super::proto::{Freshness, ResolveCredentialsRequest, ResolveCredentialsResponse};
use crate::audit::{LastNoted, Method, Outcome, Told, View};
use crate::auth::{self, Claim};
use crate::changes::{Changes, Place, Seen, Stamp, Subject};
use crate::clock::{Clock, Moment};
use crate::config;
use crate::metrics::Metrics;
use crate::model::caller::{self, Caller};
use crate::resolve::Reuse;

/// What gRPC puts before a message: whether it is compressed, and its length.
pub(super) const MESSAGE_HEAD_BYTES: usize = 5;

/// Answers in memory. Clones share them.
#[derive(Clone)]
pub struct Answers(Arc<Shared>);

struct Shared {
    held: Cache<Arc<[u8]>, Arc<Answer>, ByBytes>,
    changes: Changes,
    clock: Clock,
    metrics: Metrics,
}

/// A held answer. It knows what its audit record is made of, which becomes text only when it is written.
pub(super) struct Answer {
    /// The message with what gRPC puts before it.
    pub(super) framed: Bytes,
    as_of: Seen,
    /// Of its project.
    place: Place,
    /// What it was made of, but for who is told.
    subjects: Arc<[Subject]>,
    until: Moment,
    caller: Arc<Caller>,
    question: Arc<[u8]>,
    outcome: Outcome,
    /// Of the credentials in it.
    noted: LastNoted,
}

/// Many are held: what is known beside the bytes is to stay small.
const _: () = assert!(size_of::<Answer>() <= 192);

/// A question, as the key that it is looked up by.
pub struct Question {
    key: Vec<u8>,
}

/// The place of an answer that is still to be made.
#[derive(Clone)]
pub struct Slot {
    answers: Answers,
    key: Arc<[u8]>,
    /// Taken before the caller was verified.
    as_of: Stamp,
}

#[derive(Clone)]
struct ByBytes {
    least: u64,
}

impl Weighter<Arc<[u8]>, Arc<Answer>> for ByBytes {
    fn weight(&self, key: &Arc<[u8]>, answer: &Arc<Answer>) -> u64 {
        // What the map and the reference counts spend on an entry; measured, rounded up.
        const ENTRY_BYTES: usize = 160;
        let beside = answer.outcome.heap_bytes() + size_of_val(&*answer.subjects);
        let held = ENTRY_BYTES + size_of::<Answer>() + beside;
        ((key.len() + answer.framed.len() + held) as u64).max(self.least)
    }
}

impl Answers {
    pub fn new(settings: &config::Cache, changes: Changes, clock: Clock, metrics: Metrics) -> Self {
        // An entry that weighs no less than its share of the entries bounds them as well.
        let least = settings.bytes_max.div_ceil(settings.entries_max.max(1)).max(1);
        let entries = usize::try_from(settings.entries_max).unwrap_or(usize::MAX);
        let held = Cache::with_weighter(entries, settings.bytes_max, ByBytes { least });
        Self(Arc::new(Shared { held, changes, clock, metrics }))
    }

    /// The answer to `question`, if one is held that is as good as a new one at `now`.
    pub(super) fn get(&self, question: &Question, now: Moment) -> Option<Arc<Answer>> {
        let shared = &self.0;
        let answer = shared.held.get(&question.key[..])?;
        let is_good = now < answer.until && shared.changes.is_trusted(now) && shared.is_current(&answer);
        is_good.then_some(answer)
    }

    /// A place for the answer to `question`, to be taken before anything is done to answer it.
    pub fn slot(&self, question: Question) -> Slot {
        Slot { answers: self.clone(), key: question.key.into(), as_of: self.0.changes.stamp() }
    }

    /// Drops what would not be given again.
    pub fn sweep(&self) {
        let (shared, now) = (&self.0, self.0.clock.moment());
        shared.held.retain(|_, answer| now < answer.until && shared.is_current(answer));
    }

    /// Tells the gauges.
    pub fn observe(&self) {
        self.0.metrics.answer_cache_size(self.0.held.len() as u64, self.0.held.weight());
    }
}

impl Shared {
    /// Whether nothing has changed that an answer was made of. Most often nothing of its project has, which is soon told.
    fn is_current(&self, answer: &Answer) -> bool {
        if self.changes.is_unchanged_at(answer.place, answer.as_of.stamp()) {
            return true;
        }
        // That a run token was revoked is no change of a subject of its own.
        let is_told_all = !matches!(answer.caller.subject, caller::Subject::Run(_));
        let subjects = answer.subjects.iter().copied().chain(auth::subjects(&answer.caller));
        is_told_all && self.changes.are_still_unchanged(&answer.as_of, subjects)
    }

    /// Until when the caller is let in at all.
    fn last_moment(&self, caller: &Caller) -> Option<Moment> {
        let left = caller.expires_at?.duration_since(self.clock.now());
        Some(self.clock.moment() + Duration::try_from(left).unwrap_or(Duration::ZERO))
    }
}

impl Question {
    /// What `claim` asks for in the project it names; the message is to be added.
    pub fn new(claim: &Claim, project: Option<&[u8]>) -> Self {
        const MOST: usize = 256;
        let project = project.unwrap_or_default();
        let mut key = Vec::with_capacity(MOST);
        match claim {
            Claim::TokenHash(hash) => {
                key.put_u8(0);
                key.put_slice(hash);
            }
            Claim::Known(position) => {
                key.put_u8(1);
                key.put_u64(*position as u64);
            }
        }
        key.put_u64(project.len() as u64);
        key.put_slice(project);
        Self { key }
    }

    /// The message that was added.
    fn message(key: &[u8]) -> Option<&[u8]> {
        let claim = match key.first()? {
            0 => 1 + size_of::<[u8; 32]>(),
            _ => 1 + size_of::<u64>(),
        };
        let (length, rest) = key.get(claim..)?.split_first_chunk()?;
        rest.get(usize::try_from(u64::from_be_bytes(*length)).ok()?..)
    }

    /// Adds the request's message.
    pub fn complete(&mut self, message: &[u8]) {
        self.key.put_slice(message);
    }
}

impl Slot {
    /// Keeps `answer` for when `caller` asks the same later. Then it comes from memory.
    pub(super) fn keep(
        &self,
        answer: &ResolveCredentialsResponse,
        caller: &Arc<Caller>,
        reuse: Reuse,
        outcome: Outcome,
    ) {
        let shared = &self.answers.0;
        let until = shared.last_moment(caller).map_or(reuse.until, |end| end.min(reuse.until));
        let mut answer = answer.clone();
        for used in answer.provenance.iter_mut().flat_map(|provenance| &mut provenance.connections) {
            if used.freshness() == Freshness::Fresh {
                used.set_freshness(Freshness::Cached);
            }
        }
        let Some(framed) = framed(&answer) else { return };
        let (as_of, place) = (Seen::at(self.as_of.min(reuse.as_of)), shared.changes.place(reuse.project));
        let (caller, question) = (Arc::clone(caller), Arc::clone(&self.key));
        let (outcome, noted) = (outcome.from_memory(), LastNoted::default());
        let answer = Answer { framed, as_of, place, subjects: reuse.subjects, until, caller, question, outcome, noted };
        shared.held.insert(Arc::clone(&self.key), Arc::new(answer));
    }
}

impl Told for Answer {
    fn view(&self) -> View<'_> {
        let request =
            Question::message(&self.question).and_then(|message| ResolveCredentialsRequest::decode(message).ok());
        let named = |name: String| (!name.is_empty()).then_some(Cow::Owned(name));
        let (workflow, step) = request.map_or((None, None), |r| (named(r.workflow_id), named(r.step)));
        View { method: Method::Resolve, caller: &self.caller, asked: None, workflow, step, outcome: &self.outcome }
    }

    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn used(&self, at: Moment) -> Option<&Outcome> {
        self.noted.is_due(at).then_some(&self.outcome)
    }
}

/// The message as it goes over the wire, in memory that is wiped when nobody holds it any more.
fn framed(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut framed = Zeroizing::new(Vec::with_capacity(MESSAGE_HEAD_BYTES + length));
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).ok()?);
    message.encode(&mut *framed).ok()?;
    Some(Bytes::from_owner(framed))
}
