//! The pages that there are: one that asks whether to go on, and one that tells what happened, what to do next, and a link to it.

use std::sync::LazyLock;

use askama::Template;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use crate::control::ControlError;
use crate::control::connect::{AccountCheck, ConnectFault, Connected, Question, Sent};
use crate::model;
use crate::model::connection::ConnectionState;
use crate::rest::problem::Problem;

/// In the page itself: nothing is loaded beside it.
const STYLE: &str = include_str!("outcome.css");

/// Nothing is run, loaded or sent anywhere, nobody frames it, and the only style is its own.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("'none'"));

/// The same, with a form that is sent to us.
static POLICY_OF_FORMS: LazyLock<HeaderValue> = LazyLock::new(|| policy("'self'"));

fn policy(forms: &str) -> HeaderValue {
    let style = BASE64.encode(&Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action {forms}; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("it is made of visible ASCII")
}

/// Who asks for what.
#[derive(Template)]
#[template(path = "question.html", config = "src/rest/pages/askama.toml")]
struct Asking<'a> {
    heading: String,
    told: String,
    question: &'a Question,
    style: &'static str,
}

#[derive(Template)]
#[template(path = "outcome.html", config = "src/rest/pages/askama.toml")]
struct Outcome<'a> {
    is_good: bool,
    heading: String,
    /// What happened.
    told: String,
    /// What was not granted, one by one.
    missing: Vec<&'a str>,
    /// What to do next.
    next: String,
    /// A link, and what stands on it.
    link: Option<(String, String)>,
    /// Where the browser goes by itself.
    onward: Option<&'a str>,
    /// For whoever is asked for help.
    code: Option<&'a str>,
    request_id: &'a str,
    style: &'static str,
}

/// What everything below our path is sent with: the addresses of sign-ins are told to nobody.
fn with_headers(mut response: Response, policy: &HeaderValue) -> Response {
    const HEADERS: [(HeaderName, &str); 3] = [
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

fn shown(status: StatusCode, page: &Outcome<'_>) -> Response {
    with_headers(rendered(status, page), &CONTENT_SECURITY_POLICY)
}

fn rendered(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        // Only a writer that fails could fail it, and a text does not.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether to go on.
pub(super) fn question(question: &Question) -> Response {
    let Question { provider, is_new, .. } = question;
    let again = if *is_new { "" } else { " again" };
    let page = Asking {
        heading: format!("Connect {provider}{again}?"),
        told: format!("Somebody asks you to sign in at {provider}, and to let this server use your account there:"),
        question,
        style: STYLE,
    };
    with_headers(rendered(StatusCode::OK, &page), &POLICY_OF_FORMS)
}

/// On to the provider.
pub(super) fn onward(sent: &Sent, request_id: &str) -> Response {
    let Sent { location, provider } = sent;
    let page = Outcome {
        is_good: true,
        heading: format!("On to {provider}"),
        told: format!("You are sent to {provider}."),
        missing: Vec::new(),
        next: "If nothing happens, follow the link.".to_owned(),
        link: Some((location.to_string(), format!("Continue to {provider}"))),
        onward: Some(location.as_str()),
        code: None,
        request_id,
        style: STYLE,
    };
    shown(StatusCode::OK, &page)
}

/// It went well, wholly or in part.
pub(super) fn connected(
    done: &Connected,
    template: Option<&model::template::Template>,
    again: Option<String>,
    request_id: &str,
) -> Response {
    let Connected { connection, provider, is_new, .. } = done;
    let connected = if *is_new { "connected" } else { "connected again" };
    let account = connection.account_label.as_ref().map(|label| format!(" as {label}")).unwrap_or_default();
    let unchecked = match done.account_check {
        AccountCheck::First | AccountCheck::Same => String::new(),
        AccountCheck::NotChecked if *is_new => format!(" {provider} does not tell whose account it is: not checked."),
        AccountCheck::NotChecked => {
            format!(" Account not checked: {provider} does not tell whether it is the same as before.")
        }
    };
    let off = match connection.status.state {
        ConnectionState::Disabled => " It is turned off: whoever uses it is refused until somebody turns it on.",
        _ => "",
    };
    let told = format!("{} is {connected} to {provider}{account}.{unchecked}{off}", connection.name);
    let is_whole = done.scopes_missing.is_empty();
    let services = template.into_iter().flat_map(|template| &template.services);
    let services = services.filter(|known| done.services_missing.contains(known.service.as_str()));
    let missing = services.map(|known| known.label.as_str()).chain(done.scopes_missing.iter().map(String::as_str));
    let (heading, told, next) = match is_whole {
        true => ("Connected", told, "You can close this page."),
        false => (
            "Connected, but not everything was granted",
            format!("{told} This was asked for, and not granted:"),
            "What needs it is refused until it is granted. If you left it out on purpose, you can close this page.",
        ),
    };
    let page = Outcome {
        is_good: true,
        heading: heading.to_owned(),
        told,
        missing: missing.collect(),
        next: next.to_owned(),
        link: again.filter(|_| !is_whole).map(|link| (link, "Grant what is missing".to_owned())),
        onward: None,
        code: None,
        request_id,
        style: STYLE,
    };
    shown(StatusCode::OK, &page)
}

/// It did not: why, and how to go on.
pub(super) fn not_connected(error: ControlError, again: Option<String>, request_id: &str) -> Response {
    let ControlError::Connect(fault) = error else {
        // What else goes wrong is told to those who are known.
        let page = Outcome { link: again.map(start_again), ..broken(error.code(), request_id) };
        return shown(StatusCode::SERVICE_UNAVAILABLE, &page);
    };
    // To whoever did so it is good news, told twice.
    let is_good = matches!(*fault, ConnectFault::Finished { .. });
    let page = Outcome {
        is_good,
        heading: heading(&fault),
        told: sentence(&fault.to_string()),
        missing: Vec::new(),
        next: sentence(&fault.remedy()),
        link: again.map(start_again),
        onward: None,
        code: (!is_good).then(|| fault.code()),
        request_id,
        style: STYLE,
    };
    shown(status(&fault), &page)
}

/// What was refused before it came to a sign-in.
pub(in crate::rest) fn trouble(problem: &Problem, request_id: &str) -> Response {
    let page = broken(problem.code(), request_id);
    let (heading, told) = match problem.status() {
        StatusCode::NOT_FOUND => ("There is no such page", "Nothing is at this address."),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("This page takes no form", "Something was sent to it, instead of opening it.")
        }
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            ("This was not understood", "What your browser sent did not come whole, or not in time.")
        }
        _ => return shown(problem.status(), &page),
    };
    let next = "Open the link again that you were given; nothing was changed.".to_owned();
    shown(problem.status(), &Outcome { heading: heading.to_owned(), told: told.to_owned(), next, ..page })
}

fn start_again(link: String) -> (String, String) {
    (link, "Start again".to_owned())
}

fn broken<'a>(code: &'a str, request_id: &'a str) -> Outcome<'a> {
    Outcome {
        is_good: false,
        heading: "This does not work now".to_owned(),
        told: "Something on our side does not answer as it should.".to_owned(),
        missing: Vec::new(),
        next: "Start again in some minutes.".to_owned(),
        link: None,
        onward: None,
        code: Some(code),
        request_id,
        style: STYLE,
    }
}

fn status(fault: &ConnectFault) -> StatusCode {
    match fault {
        ConnectFault::Finished { .. } => StatusCode::OK,
        ConnectFault::Expired | ConnectFault::Used | ConnectFault::Gone => StatusCode::GONE,
        ConnectFault::Busy => StatusCode::CONFLICT,
        ConnectFault::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn heading(fault: &ConnectFault) -> String {
    match fault {
        ConnectFault::Unknown => "This link does not work".to_owned(),
        ConnectFault::Expired => "This sign-in has expired".to_owned(),
        ConnectFault::Used => "This sign-in was used before".to_owned(),
        ConnectFault::Finished { .. } => "This sign-in is finished already".to_owned(),
        ConnectFault::Busy => "This sign-in is being finished".to_owned(),
        ConnectFault::NoCookie => "This browser keeps no cookie".to_owned(),
        ConnectFault::OtherBrowser => "This sign-in belongs to another browser".to_owned(),
        ConnectFault::Cancelled { provider } => format!("You cancelled at {provider}"),
        ConnectFault::Refused { provider, .. } => format!("{provider} refused"),
        ConnectFault::Unavailable { provider } => format!("{provider} does not answer"),
        ConnectFault::AccountChanged { .. } => "This is another account".to_owned(),
        ConnectFault::Gone => "The connection is not there any more".to_owned(),
        ConnectFault::Changed => "The connection was changed meanwhile".to_owned(),
        _ => "It could not be connected".to_owned(),
    }
}

/// With a capital letter, and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
