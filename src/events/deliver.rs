//! One delivery: a POST to where a webhook is, over a connection of its own, to an address that may be reached. What is answered
//! beside the status is not read.

use std::pin::pin;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::time::timeout;
use url::{Position, Url};

use super::sign;
use crate::config::Webhook;
use crate::limits;
use crate::probe::outside::{NoStream, Outside};
use crate::store::Delivery;

/// Why a delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub cause: Cause,
    /// The pause that the receiver asks for.
    pub retry_after: Option<Duration>,
}

/// What is said of it in the log: our own words only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("its host cannot be reached")]
    Unreachable,
    #[error(
        "its host has {0}, to which nothing is sent: name it in the setting egress.allow if it is meant to be reached"
    )]
    NotAllowed(&'static str),
    #[error("it did not answer within {:?}", limits::WEBHOOK_DEADLINE)]
    Late,
    #[error("the connection broke before it answered")]
    Broken,
    #[error("it answered {0}")]
    Status(u16),
}

impl From<Cause> for Failed {
    fn from(cause: Cause) -> Self {
        Self { cause, retry_after: None }
    }
}

/// Tells a webhook what is to be told. It is taken if the receiver says so by a status of success.
pub(super) async fn deliver(
    outside: &Outside,
    webhook: &Webhook,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<(), Failed> {
    let told = timeout(limits::WEBHOOK_DEADLINE, tell(outside, webhook, delivery, now));
    told.await.unwrap_or(Err(Cause::Late.into()))
}

async fn tell(outside: &Outside, webhook: &Webhook, delivery: &Delivery, now: Timestamp) -> Result<(), Failed> {
    let request = request(webhook, delivery, now).ok_or(Cause::Unreachable)?;
    let stream = outside.connect(&webhook.url).await.map_err(|no_stream| match no_stream {
        NoStream::Unreachable => Cause::Unreachable,
        NoStream::NotAllowed(inner) => Cause::NotAllowed(inner.word()),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Cause::Broken)?;
    let (mut asking, mut connection) = (pin!(sender.send_request(request)), pin!(connection));
    let mut is_over = false;
    let answer = loop {
        tokio::select! {
            answer = &mut asking => break answer.map_err(|_| Cause::Broken)?,
            // What it read is there to be taken.
            _ = &mut connection, if !is_over => is_over = true,
        }
    };
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => {
            Err(Failed { cause: Cause::Status(status.as_u16()), retry_after: retry_after(answer.headers(), now) })
        }
    }
}

fn request(webhook: &Webhook, delivery: &Delivery, now: Timestamp) -> Option<Request<String>> {
    let (url, sent) = (&webhook.url, now.as_second());
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let mut request = Request::post(target(url)).body(delivery.body.clone()).ok()?;
    let headers = request.headers_mut();
    headers.insert(HOST, text(&url[Position::BeforeHost..Position::AfterPort])?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("credway/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(sign::ID, text(&delivery.event.to_string())?);
    headers.insert(sign::TIMESTAMP, HeaderValue::from(sent));
    headers.insert(sign::SIGNATURE, text(&sign::signature(&webhook.secret, delivery.event, sent, &delivery.body))?);
    Some(request)
}

fn target(url: &Url) -> &str {
    &url[Position::BeforePath..Position::AfterQuery]
}

/// In seconds, or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(then.duration_since(now)).ok()
}
