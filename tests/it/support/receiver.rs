//! A receiver of webhooks: checks each signature, answers as it is told, and keeps what it took.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use credway::config::Webhook;
use credway::model::event::EventKind;
use ring::hmac;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// 32 bytes, as bodies are signed with them.
const KEY: &[u8; 32] = b"a key that no other webhook has!";

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Inner {
    told: Mutex<Vec<Told>>,
    answers: Mutex<VecDeque<Answer>>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) timestamp: i64,
    pub(crate) body: Value,
    /// What it was answered with.
    pub(crate) status: u16,
}

/// How the next request is answered; 204 otherwise.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Status(u16),
    /// 503, and how many seconds it should wait.
    Busy(u32),
    /// Success, after a while.
    Slow(Duration),
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, inner) = (listener.local_addr().unwrap(), Arc::new(Inner::default()));
        let routes = Router::new().fallback(receive).with_state(Arc::clone(&inner));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, inner, _serving: AbortOnDropHandle::new(serving) }
    }

    /// The settings of a webhook here.
    pub(crate) fn webhook(&self) -> Webhook {
        webhook(self.address)
    }

    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.inner.answers.lock().unwrap().extend(answers);
    }

    /// Every request so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.inner.told.lock().unwrap().clone()
    }

    /// The kinds and connections of what was taken.
    pub(crate) fn taken(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let taken = self.told().into_iter().filter(|told| told.status < 300);
        taken.map(|told| (text(&told.body["type"]), text(&told.body["data"]["name"]))).collect()
    }
}

/// The settings of a webhook at this address, for every kind.
pub(crate) fn webhook(address: SocketAddr) -> Webhook {
    let secret = format!("whsec_{}", data_encoding::BASE64.encode(KEY));
    Webhook {
        url: format!("http://{address}/hooks?from=credway").parse().unwrap(),
        secret: secret.parse().unwrap(),
        events: EventKind::ALL.iter().map(|(kind, _)| *kind).collect(),
    }
}

async fn receive(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: String) -> Response {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp"));
    let signature = text("webhook-signature");
    let signature = data_encoding::BASE64.decode(signature.strip_prefix("v1,").unwrap().as_bytes()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY);
    hmac::verify(&key, format!("{id}.{timestamp}.{body}").as_bytes(), &signature).expect("the signature is good");
    assert_eq!(text("content-type"), "application/json");
    let answer = inner.answers.lock().unwrap().pop_front().unwrap_or(Answer::Status(204));
    let status = match answer {
        Answer::Status(status) => status,
        Answer::Busy(_) => 503,
        Answer::Slow(_) => 204,
    };
    let told = Told { id, timestamp: timestamp.parse().unwrap(), body: serde_json::from_str(&body).unwrap(), status };
    inner.told.lock().unwrap().push(told);
    let status = StatusCode::from_u16(status).unwrap();
    match answer {
        Answer::Status(_) => status.into_response(),
        Answer::Busy(seconds) => (status, [("retry-after", seconds.to_string())]).into_response(),
        Answer::Slow(span) => {
            tokio::time::sleep(span).await;
            status.into_response()
        }
    }
}
