//! The pages of sign-ins: `/oauth/start/{flow}`, which asks whether to go on and sends a browser to a provider, and
//! `/oauth/callback`, to which the provider sends it back, with a part behind it for each provider that people set up themselves. They need no script, show no code, state or token, and end with what to do next.

mod outcome;

use std::borrow::Cow;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Rest;
use super::connections::answer_of;
use super::front::RequestId;
use super::problem::Problem;
use super::sign_ins;
use crate::control::Control;
use crate::control::connect::{Answered, ConnectFault, NotConnected, Opener, Presence};
use crate::limits;
use crate::model::id::FlowId;
use crate::store::Actor;
pub(super) use outcome::trouble;
use outcome::{connected, not_connected, onward};

/// Below this path people are answered, not scripts.
pub(super) const PATH: &str = "/oauth/";

/// Who opens links, until it is known who made them.
const BROWSER: &str = "browser";

pub(super) fn routes() -> Router<Rest> {
    // A HEAD is a program's look at a link, which is not to use it up.
    Router::new()
        .route("/oauth/start/{flow}", get(start).post(go_on).head(no_look))
        .route("/oauth/callback", get(callback).head(no_look))
        .route("/oauth/callback/{place}", get(callback).head(no_look))
        .route("/oauth/", any(nothing))
        .route("/oauth/{*rest}", any(nothing))
        .layer(DefaultBodyLimit::max(limits::CONNECT_FORM_BYTES_MAX))
}

async fn nothing(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()), "open the link that you were given")
}

async fn no_look() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")]).into_response()
}

/// Tells who asks for what, and gives the browser what it is known by from then on.
async fn start(
    State(rest): State<Rest>,
    Extension(request): Extension<RequestId>,
    Path(asked): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let cookies = Cookies::of(&rest);
    let (link, held) = (link(query.as_deref()), cookies.held_for(&headers, &asked));
    let opener = Opener { link: link.as_deref(), browser: held.as_deref().map(String::as_str), proof: None };
    match control(&rest, &request).connect_look(&asked, opener).await {
        Ok(question) => {
            let mut page = outcome::question(&question);
            page.headers_mut().append(header::SET_COOKIE, cookies.cookie(question.flow, &question.browser));
            page
        }
        Err(no) => refused(&rest, no, &request),
    }
}

/// Sends the browser to the provider, if that is wanted. By a page that leads on, and no redirect: what a form leads to is bound by
/// the policy of its page, and providers send people on to hosts that only they know.
async fn go_on(
    State(rest): State<Rest>,
    Extension(request): Extension<RequestId>,
    Path(asked): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    sent: Request,
) -> Response {
    let Ok(form) = timeout(limits::CONNECT_FORM_DEADLINE, Bytes::from_request(sent, &rest)).await else {
        return Problem::malformed(StatusCode::REQUEST_TIMEOUT, "the form did not come").into_response();
    };
    let form = form.unwrap_or_default();
    let proof = url::form_urlencoded::parse(&form).find(|(name, _)| name == "b").map(|(_, value)| value);
    let (link, held) = (link(query.as_deref()), Cookies::of(&rest).held_for(&headers, &asked));
    let browser = held.as_deref().map(String::as_str);
    let opener = Opener { link: link.as_deref(), browser, proof: proof.as_deref() };
    match control(&rest, &request).connect_open(&rest.0.oauth, &asked, opener).await {
        Ok(sent) => onward(&sent, &request.0),
        Err(no) => refused(&rest, no, &request),
    }
}

/// Somebody is not sent to a provider.
fn refused(rest: &Rest, no: NotConnected, request: &RequestId) -> Response {
    sign_ins::log(&no, request);
    again_or_not(rest, no, request)
}

/// Why not, with a link to begin once more where that can be done.
fn again_or_not(rest: &Rest, no: NotConnected, request: &RequestId) -> Response {
    let flow = no.about.filter(|_| no.again).map(|(flow, _)| flow);
    let link = flow.and_then(|flow| Control::connect_link(&rest.0.oauth, flow));
    not_connected(*no.error, link, &request.0)
}

/// The key of a link.
fn link(query: Option<&str>) -> Option<Cow<'_, str>> {
    let mut pairs = url::form_urlencoded::parse(query?.as_bytes());
    pairs.find(|(name, _)| name == "k").map(|(_, value)| value)
}

/// Takes the provider's answer. It is worked on to its end even if the browser goes away: a code is good only once.
async fn callback(
    State(rest): State<Rest>,
    Extension(request): Extension<RequestId>,
    place: Option<Path<String>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(answered) = answer_of(&query.unwrap_or_default()) else {
        return refused(&rest, ConnectFault::Unknown.into(), &request);
    };
    let place = place.map(|Path(place)| place).unwrap_or_default();
    let (answered, cookies) = (Answered { place: Some(place), ..answered }, Cookies::of(&rest));
    let (control, oauth) = (control(&rest, &request), rest.0.oauth.clone());
    let finishing = async move {
        let held = |flow| cookies.held(&headers, flow).map(|held| held.to_string());
        control.connect_finish(&oauth, &answered, Presence::Browser(&held)).await
    };
    match rest.finished(&request, finishing).await {
        Ok(done) => {
            // Whoever sees the page finds the connection as it says.
            rest.0.resolver.caught_up().await;
            // Its cookie stays until it expires: whoever loads the page once more is told how it went.
            let template = rest.0.control.catalogue().get(&done.connection.template);
            let link = Control::connect_link(&rest.0.oauth, done.flow);
            connected(&done, template, link, &request.0)
        }
        Err(no) => again_or_not(&rest, no, &request),
    }
}

fn control(rest: &Rest, request: &RequestId) -> Control {
    rest.0.control.acting_as(Actor { name: BROWSER.to_owned(), request_id: Some(request.0.clone()) })
}

/// The cookies by which browsers are known: one for each sign-in, so that two at once do not disturb each other.
#[derive(Clone, Copy)]
struct Cookies {
    is_https: bool,
}

impl Cookies {
    fn of(rest: &Rest) -> Self {
        Self { is_https: rest.0.oauth.redirect_uri().is_some_and(|url| url.scheme() == "https") }
    }

    /// With the prefix no other host of the domain can set it (RFC 6265bis, 4.1.3.2); browsers take that over https only.
    fn name(&self, flow: FlowId) -> String {
        let prefix = if self.is_https { "__Host-" } else { "" };
        format!("{prefix}credway-{flow}")
    }

    fn held(&self, headers: &HeaderMap, flow: FlowId) -> Option<Zeroizing<String>> {
        let name = self.name(flow);
        let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(held, _)| *held == name).map(|(_, value)| Zeroizing::new(value.to_owned()))
    }

    fn held_for(&self, headers: &HeaderMap, asked: &str) -> Option<Zeroizing<String>> {
        self.held(headers, asked.parse().ok()?)
    }

    /// What comes back comes from another site, as a plain navigation: to that a lax cookie is sent, and not to another site's form.
    fn cookie(&self, flow: FlowId, value: &str) -> HeaderValue {
        let secure = if self.is_https { "; Secure" } else { "" };
        let (name, seconds) = (self.name(flow), limits::CONNECT_LIFE.as_secs());
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        // What a browser sent and we send back may be anything; then it was not ours, and it is not known by it.
        let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}
