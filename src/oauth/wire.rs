//! One HTTP request over one connection of its own, so that it is known whether it was sent. Knows nothing of OAuth.

use std::pin::{Pin, pin};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use url::{Position, Url};
use zeroize::Zeroizing;

use super::error::{Setup, TokenError, TokenErrorKind};
use crate::limits;
use crate::model::address::{address as filled, crosses_a_network_in_the_clear};
use crate::model::pattern::Pattern;
use crate::model::secret::SecretFields;
use crate::probe::outside::{NoStream, Outside, Stream};

/// Where a pattern leads, if secrets may be sent there.
pub(super) fn address(url: &Pattern, fields: &SecretFields) -> Result<Url, TokenError> {
    let url = filled(url, fields)?;
    if crosses_a_network_in_the_clear(&url) { Err(Setup::InTheClear.into()) } else { Ok(url) }
}

/// A request that was made, and not sent.
pub(super) struct Unsent {
    method: Method,
    target: String,
    pub headers: HeaderMap,
    /// Holds secrets, as the headers do.
    pub body: String,
}

impl Unsent {
    pub(super) fn post(url: &Url) -> Self {
        Self::new(Method::POST, url)
    }

    pub(super) fn get(url: &Url) -> Self {
        Self::new(Method::GET, url)
    }

    fn new(method: Method, url: &Url) -> Self {
        let target = url[Position::BeforePath..Position::AfterQuery].to_owned();
        Self { method, target, headers: HeaderMap::new(), body: String::new() }
    }
}

/// What came back.
pub(super) struct Answer {
    pub status: u16,
    /// Whether it sends us elsewhere, where we do not go.
    pub is_redirect: bool,
    pub retry_after: Option<Duration>,
    pub is_form: bool,
    pub body: Zeroizing<Vec<u8>>,
}

/// A connection that stands.
pub(super) struct Line {
    url: Url,
    sender: http1::SendRequest<String>,
    connection: http1::Connection<TokioIo<Stream>, String>,
}

impl Line {
    /// Connects to where `url` leads.
    pub(super) async fn open(outside: &Outside, url: Url) -> Result<Self, TokenError> {
        let stream = outside.connect(&url).await.map_err(|no_stream| match no_stream {
            NoStream::Unreachable => TokenErrorKind::NotSent,
            NoStream::NotAllowed(inner) => TokenErrorKind::NotAllowed(inner),
        })?;
        // Nothing is sent yet: HTTP/1.1 has no greeting.
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| TokenErrorKind::NotSent)?;
        Ok(Self { url, sender, connection })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Sends the request and reads the answer. The caller sets the deadline; when it passes, it may have been sent.
    pub(super) async fn ask(self, unsent: Unsent, now: Timestamp) -> Result<Answer, TokenError> {
        let Self { url, mut sender, connection } = self;
        let request = request(&url, unsent)?;
        let asking = async move {
            let sent = sender.try_send_request(request).await;
            let response = sent.map_err(|failed| match failed.message() {
                Some(_) => TokenErrorKind::NotSent,
                None => TokenErrorKind::MaybeSent,
            })?;
            read(response, now).await.ok_or(TokenErrorKind::MaybeSent)
        };
        let (mut asking, mut connection) = (pin!(asking), pin!(connection));
        let mut is_over = false;
        loop {
            tokio::select! {
                answer = &mut asking => return answer.map_err(TokenError::from),
                // What it read is there to be taken; how it ended is seen by that.
                _ = &mut connection, if !is_over => is_over = true,
            }
        }
    }
}

fn request(url: &Url, unsent: Unsent) -> Result<Request<String>, TokenError> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let mut request =
        Request::builder().method(unsent.method).uri(unsent.target).body(unsent.body).map_err(|_| Setup::Unsendable)?;
    *request.headers_mut() = unsent.headers;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| Setup::Unsendable)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("credway/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// The whole answer; `None` if it breaks off. Of one that is too long, the beginning.
async fn read(response: http::Response<Incoming>, now: Timestamp) -> Option<Answer> {
    let (head, mut incoming) = response.into_parts();
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    let mut body = Zeroizing::new(Vec::new());
    while body.len() < limits::TOKEN_BODY_BYTES_MAX {
        let frame = std::future::poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await;
        let Some(frame) = frame else { break };
        if let Ok(chunk) = frame.ok()?.into_data() {
            let room = limits::TOKEN_BODY_BYTES_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
    }
    Some(Answer {
        status: head.status.as_u16(),
        is_redirect: head.status.is_redirection() && head.headers.contains_key(LOCATION),
        retry_after: text(RETRY_AFTER).and_then(|text| pause(text, now)),
        is_form: kind.starts_with("application/x-www-form-urlencoded") || kind.starts_with("text/plain"),
        body,
    })
}

/// What Retry-After says: seconds, or a date (RFC 9110, 10.2.3).
fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO)
        }
    };
    Some(pause.min(limits::RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date_and_never_longer_than_an_hour() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let table = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(pause(text, now).map(|pause| pause.as_secs()), expected, "{text}");
        }
    }
}
