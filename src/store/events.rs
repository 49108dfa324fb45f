//! What happened to connections, and which webhooks are still to be told. An event is written with the change itself; telling
//! it changes no wiring, and never enters the change log.

use jiff::Timestamp;
use serde::Serialize;

use super::records::ProjectRecord;
use super::rows::{parsed, timestamp, to_json, unreadable};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::limits;
use crate::model::connection::{Connection, ConnectionState, Status};
use crate::model::event::EventKind;
use crate::model::id::{ConnectionId, EventId};

const EVENT_INSERT: &str = "INSERT INTO events (id, kind, body, at) VALUES ($1, $2, $3, $4)";
const EVENTS_UNSPREAD: &str = "SELECT id, kind FROM events WHERE spread_at IS NULL ORDER BY id LIMIT $1";
const EVENT_SPREAD: &str = "UPDATE events SET spread_at = $2 WHERE id = $1 AND spread_at IS NULL";
const EVENTS_PRUNE: &str = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at <= $1 ORDER BY at LIMIT $2)";
const DELIVERY_INSERT: &str = "INSERT INTO deliveries (event_id, webhook, attempts, due_at) VALUES ($1, $2, 0, $3)";
const DELIVERIES_DUE: &str = "SELECT d.event_id, d.attempts, d.due_at, e.body, e.at
    FROM deliveries d JOIN events e ON e.id = d.event_id
    WHERE d.webhook = $1 AND d.due_at <= $2 ORDER BY d.due_at, d.event_id LIMIT $3";
const DELIVERY_NEXT: &str = "SELECT MIN(due_at) FROM deliveries WHERE webhook = $1";
const DELIVERY_CLAIM: &str = "UPDATE deliveries SET attempts = attempts + 1, due_at = $4
    WHERE event_id = $1 AND webhook = $2 AND due_at = $3";
const DELIVERY_POSTPONE: &str = "UPDATE deliveries SET due_at = $3 WHERE event_id = $1 AND webhook = $2";
const DELIVERY_DELETE: &str = "DELETE FROM deliveries WHERE event_id = $1 AND webhook = $2";
const STATE_BEFORE: &str =
    "SELECT status, status_reason, status_since FROM connections WHERE id = $1 AND project_id = $2";

/// Something that a webhook is still to be told.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub event: EventId,
    /// Those that failed, and this one once it is claimed.
    pub attempts: u32,
    pub due_at: Timestamp,
    /// What is told, as JSON: the same each time.
    pub body: String,
    /// When it happened.
    pub at: Timestamp,
}

/// What is told. No field of a credential, and no account's name: only what people called it themselves.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    tenant_id: String,
    project_id: String,
    project: &'a str,
    connection_id: String,
    name: &'a str,
    template: &'a str,
    provider: &'a str,
    service: Option<&'a str>,
    environment: Option<&'a str>,
    status: String,
    reason: Option<&'a str>,
    since: Timestamp,
}

impl Store {
    /// Events of which no webhook knows yet, the oldest first.
    pub async fn events_unspread(&self) -> Result<Vec<(EventId, EventKind)>, StoreError> {
        let rows: Vec<(String, String)> = read!(self, |held| {
            sqlx::query_as(EVENTS_UNSPREAD).bind(limits::EVENTS_PER_TRANSACTION).fetch_all(held)
        })?;
        let event = |(id, kind): (String, String)| Ok((parsed("events.id", &id)?, parsed("events.kind", &kind)?));
        rows.into_iter().map(event).collect()
    }

    /// What a webhook is to be told by `now`: at most `limit` things, the most overdue first.
    pub async fn deliveries_due(
        &self,
        webhook: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows: Vec<(String, i64, i64, String, i64)> = read!(self, |held| {
            sqlx::query_as(DELIVERIES_DUE)
                .bind(webhook)
                .bind(now.as_microsecond())
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(held)
        })?;
        let delivery = |(event, attempts, due_at, body, at): (String, i64, i64, String, i64)| {
            Ok(Delivery {
                event: parsed("deliveries.event_id", &event)?,
                attempts: u32::try_from(attempts).map_err(|_| unreadable("deliveries.attempts"))?,
                due_at: timestamp("deliveries.due_at", due_at)?,
                body,
                at: timestamp("events.at", at)?,
            })
        };
        rows.into_iter().map(delivery).collect()
    }

    /// When a webhook is next to be told something.
    pub async fn delivery_next(&self, webhook: &str) -> Result<Option<Timestamp>, StoreError> {
        let next: Option<i64> = read!(self, |held| sqlx::query_scalar(DELIVERY_NEXT).bind(webhook).fetch_one(held))?;
        next.map(|at| timestamp("deliveries.due_at", at)).transpose()
    }
}

impl Tx {
    /// The state of a connection before this transaction changes it; of one that is off, what it comes back to. Asked once the change has its place in the log: nobody
    /// changes it in between.
    pub(super) async fn state_before(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
    ) -> Result<Option<ConnectionState>, StoreError> {
        let held: Option<(String, Option<String>, i64)> = in_tx!(self, |held| {
            sqlx::query_as(STATE_BEFORE).bind(id.to_string()).bind(project.id.to_string()).fetch_optional(held)
        })?;
        let status = held.map(|(state, reason, since)| {
            let state = parsed("connections.status", &state)?;
            Ok::<_, StoreError>(Status { state, reason, since: timestamp("connections.status_since", since)? })
        });
        Ok(status.transpose()?.map(|status| status.beneath()))
    }

    /// Notes what a change means that was just made by a statement which decides by itself. `before` was asked before it.
    pub(super) async fn event_of(
        &mut self,
        project: &ProjectRecord,
        id: ConnectionId,
        before: Option<ConnectionState>,
    ) -> Result<(), StoreError> {
        match self.connection_held(project, id).await? {
            Some(now) => self.event_insert(project, &now, before, Some(&now.status)).await,
            None => Ok(()),
        }
    }

    /// Notes what a change means that brings `connection` from one state to `status`; without one it does not exist, and then
    /// `connection` is as it last was. That people turn it off and on again tells nobody anything: what it comes back to counts.
    pub(super) async fn event_insert(
        &mut self,
        project: &ProjectRecord,
        connection: &Connection,
        before: Option<ConnectionState>,
        status: Option<&Status>,
    ) -> Result<(), StoreError> {
        let Some(kind) = EventKind::of(before, status.map(Status::beneath)) else { return Ok(()) };
        let status = status.unwrap_or(&connection.status);
        let body = Body {
            r#type: &kind.to_string(),
            timestamp: self.now,
            data: Data {
                tenant_id: project.tenant.to_string(),
                project_id: project.id.to_string(),
                project: project.slug.as_str(),
                connection_id: connection.id.to_string(),
                name: &connection.name,
                template: &connection.template,
                provider: &connection.provider,
                service: connection.service.as_deref(),
                environment: connection.environment.as_deref(),
                status: status.state.to_string(),
                reason: status.reason.as_deref(),
                since: status.since,
            },
        };
        let body = to_json("events.body", &body)?;
        execute!(
            self,
            sqlx::query(EVENT_INSERT)
                .bind(EventId::generate().to_string())
                .bind(kind.to_string())
                .bind(&body)
                .bind(self.now.as_microsecond())
        )
        .map(drop)
    }

    /// Enters a delivery for each of these webhooks, unless another daemon has done so; `false` then.
    pub async fn event_spread(&mut self, event: EventId, webhooks: &[&str]) -> Result<bool, StoreError> {
        let (id, now) = (event.to_string(), self.now.as_microsecond());
        if execute!(self, sqlx::query(EVENT_SPREAD).bind(&id).bind(now))? == 0 {
            return Ok(false);
        }
        for webhook in webhooks {
            execute!(self, sqlx::query(DELIVERY_INSERT).bind(&id).bind(*webhook).bind(now))?;
        }
        Ok(true)
    }

    /// Takes a delivery until then, unless another daemon has it by now; `false` then.
    pub async fn delivery_claim(
        &mut self,
        webhook: &str,
        delivery: &Delivery,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let claimed = execute!(
            self,
            sqlx::query(DELIVERY_CLAIM)
                .bind(delivery.event.to_string())
                .bind(webhook)
                .bind(delivery.due_at.as_microsecond())
                .bind(until.as_microsecond())
        )?;
        Ok(claimed > 0)
    }

    /// The webhook is to be told again then.
    pub async fn delivery_postpone(
        &mut self,
        webhook: &str,
        event: EventId,
        due_at: Timestamp,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            sqlx::query(DELIVERY_POSTPONE).bind(event.to_string()).bind(webhook).bind(due_at.as_microsecond())
        )
        .map(drop)
    }

    /// The webhook is to be told no more of it.
    pub async fn delivery_delete(&mut self, webhook: &str, event: EventId) -> Result<(), StoreError> {
        execute!(self, sqlx::query(DELIVERY_DELETE).bind(event.to_string()).bind(webhook)).map(drop)
    }

    /// Forgets events up to `until` with what is left of their deliveries, at most so many at once; says how many.
    pub async fn events_prune(&mut self, until: Timestamp) -> Result<u64, StoreError> {
        let until = until.as_microsecond();
        execute!(self, sqlx::query(EVENTS_PRUNE).bind(until).bind(limits::EVENTS_PRUNED_AT_ONCE))
    }
}
