//! Webhooks: what happens to connections is told to those whom the settings name, signed, again and again until they take it or
//! nobody can want to know it any more. Never tells a credential.
//!
//! A change writes its event in its own transaction. A daemon that hears of it enters a delivery for each webhook, and whoever
//! delivers claims it first, so that of several daemons one does. A receiver may still be told twice (its answer was lost, or
//! the daemon died), and out of turn: the id of the event stays the same.

mod deliver;
mod pace;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::future::join_all;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::deliver::{Failed, deliver};
use crate::clock::Clock;
use crate::config;
use crate::limits;
use crate::metrics::{DeliveryOutcome, Metrics};
use crate::probe::ProbeSetupError;
use crate::probe::outside::Outside;
use crate::store::{Delivery, Store, StoreError};

/// Tells webhooks. Clones share it.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    webhooks: Vec<Webhook>,
    outside: Outside,
    store: Store,
    clock: Clock,
    metrics: Metrics,
    /// A connection has changed, so that there may be an event.
    changed: Notify,
    /// Deliveries were entered.
    entered: watch::Sender<()>,
}

struct Webhook {
    settings: config::Webhook,
    /// What its deliveries are known by: a digest of its URL, which may hold a key.
    key: String,
}

impl Events {
    pub fn new(
        webhooks: &[config::Webhook],
        egress: &config::Egress,
        store: Store,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, ProbeSetupError> {
        let webhooks = webhooks.iter().map(Webhook::of).collect();
        let outside = Outside::new(egress)?;
        let (changed, entered) = (Notify::new(), watch::Sender::default());
        Ok(Self(Arc::new(Shared { webhooks, outside, store, clock, metrics, changed, entered })))
    }

    /// Says that a connection has changed.
    pub fn changed(&self) {
        self.0.changed.notify_one();
    }

    /// Tells what happens until it is stopped. Without webhooks it only forgets what is old.
    pub async fn run(self, stop: CancellationToken) {
        let shared = &self.0;
        let telling = async {
            match shared.webhooks.as_slice() {
                [] => std::future::pending().await,
                webhooks => {
                    tokio::join!(shared.spread(), join_all(webhooks.iter().map(|webhook| shared.tell(webhook))))
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = telling => {}
            () = shared.forget() => {}
        }
    }

    /// Enters what has happened, tells what is due now, and forgets what is old. For tests, whose clocks stand still.
    pub async fn round(&self) -> Result<(), StoreError> {
        while self.0.spread_some().await? {}
        for webhook in &self.0.webhooks {
            while self.0.tell_some(webhook).await? {}
        }
        self.0.forget_old().await
    }
}

impl Shared {
    /// Enters deliveries of what happens, for ever.
    async fn spread(&self) {
        loop {
            match self.spread_some().await {
                Ok(true) => continue,
                Ok(false) => {}
                // That the database does not answer is told by the monitor.
                Err(error) => tracing::debug!(%error, "what happened to connections cannot be looked up"),
            }
            self.entered.send_replace(());
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(limits::EVENTS_SWEEP) => {}
            }
        }
    }

    /// Whether there was something.
    async fn spread_some(&self) -> Result<bool, StoreError> {
        let events = self.store.events_unspread().await?;
        if events.is_empty() {
            return Ok(false);
        }
        let mut tx = self.store.begin().await?;
        for (event, kind) in events {
            let wanting = self.webhooks.iter().filter(|webhook| webhook.settings.events.contains(&kind));
            let wanting: Vec<&str> = wanting.map(|webhook| webhook.key.as_str()).collect();
            tx.event_spread(event, &wanting).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Tells one webhook what is due, for ever.
    async fn tell(&self, webhook: &Webhook) {
        let mut entered = self.entered.subscribe();
        loop {
            let wait = match self.tell_some(webhook).await {
                Ok(true) => continue,
                Ok(false) => self.until_next(webhook).await.unwrap_or(limits::EVENTS_SWEEP),
                Err(error) => {
                    tracing::debug!(%error, "what webhooks are to be told cannot be looked up");
                    limits::EVENTS_SWEEP
                }
            };
            tokio::select! {
                _ = entered.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// How long it takes until something is due, if that is before the next sweep.
    async fn until_next(&self, webhook: &Webhook) -> Option<Duration> {
        let next = self.store.delivery_next(&webhook.key).await.ok()??;
        let wait = Duration::try_from(next.duration_since(self.clock.now())).unwrap_or(Duration::ZERO);
        // A moment more, as another daemon may have it at just that time.
        Some((wait + Duration::from_millis(1)).min(limits::EVENTS_SWEEP))
    }

    /// Whether there was something to tell that nobody else is telling.
    async fn tell_some(&self, webhook: &Webhook) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let due = self.store.deliveries_due(&webhook.key, now, limits::WEBHOOK_DELIVERIES_AT_ONCE).await?;
        let claimed = self.claim(webhook, due, now).await?;
        let told = claimed.iter().map(|delivery| deliver(&self.outside, &webhook.settings, delivery, now));
        let told = join_all(told).await;
        self.settle(webhook, &claimed, &told).await?;
        Ok(!claimed.is_empty())
    }

    /// Those that no other daemon has.
    async fn claim(&self, webhook: &Webhook, due: Vec<Delivery>, now: Timestamp) -> Result<Vec<Delivery>, StoreError> {
        let mut claimed = Vec::new();
        if due.is_empty() {
            return Ok(claimed);
        }
        let until = now.checked_add(limits::WEBHOOK_CLAIM).unwrap_or(now);
        let mut tx = self.store.begin().await?;
        for mut delivery in due {
            if tx.delivery_claim(&webhook.key, &delivery, until).await? {
                delivery.attempts += 1;
                claimed.push(delivery);
            }
        }
        tx.commit().await?;
        Ok(claimed)
    }

    /// Writes down how deliveries ended. What cannot be written is told again once the claim is over.
    async fn settle(
        &self,
        webhook: &Webhook,
        deliveries: &[Delivery],
        told: &[Result<(), Failed>],
    ) -> Result<(), StoreError> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        for (delivery, told) in deliveries.iter().zip(told) {
            match self.again(webhook, delivery, *told) {
                Some(due_at) => tx.delivery_postpone(&webhook.key, delivery.event, due_at).await?,
                None => tx.delivery_delete(&webhook.key, delivery.event).await?,
            }
        }
        tx.commit().await
    }

    /// When it is told again; `None` if it was taken, or is given up.
    fn again(&self, webhook: &Webhook, delivery: &Delivery, told: Result<(), Failed>) -> Option<Timestamp> {
        let Err(Failed { cause, retry_after }) = told else {
            self.metrics.webhook_delivery(DeliveryOutcome::Taken);
            return None;
        };
        self.metrics.webhook_delivery(DeliveryOutcome::Failed);
        let pause = pace::pause(delivery.attempts, pace::chance(), retry_after);
        let again = pace::again(delivery.at, self.clock.now(), pause);
        let (event, host) = (delivery.event, webhook.settings.url.host_str().unwrap_or_default());
        match again {
            Some(_) => tracing::debug!(%event, "the webhook at {host} was not told: {cause}"),
            None => {
                self.metrics.webhook_delivery(DeliveryOutcome::GivenUp);
                let tries = delivery.attempts;
                tracing::warn!(%event, "the webhook at {host} is told no more of it after {tries} tries: {cause}");
            }
        }
        again
    }

    /// Forgets what is old, for ever.
    async fn forget(&self) {
        loop {
            sleep(limits::EVENTS_PRUNE_INTERVAL).await;
            if let Err(error) = self.forget_old().await {
                tracing::debug!(%error, "old events are not forgotten yet");
            }
        }
    }

    async fn forget_old(&self) -> Result<(), StoreError> {
        let until = self.clock.now() - limits::EVENTS_KEPT;
        while self.forget_some(until).await? {}
        Ok(())
    }

    /// Whether there may be more.
    async fn forget_some(&self, until: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let forgotten = tx.events_prune(until).await?;
        tx.commit().await?;
        Ok(i64::try_from(forgotten).unwrap_or(i64::MAX) >= limits::EVENTS_PRUNED_AT_ONCE)
    }
}

impl Webhook {
    fn of(settings: &config::Webhook) -> Self {
        let digest = Sha256::digest(settings.url.as_str().as_bytes());
        Self { settings: settings.clone(), key: HEXLOWER.encode(&digest[..16]) }
    }
}
