//! `/v1/connections/whatsapp/…`: WhatsApp business accounts, by Meta's embedded signup or by a token that people made themselves.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Rest;
use super::super::asker::{Asker, Read, Write};
use super::super::body::JsonBody;
use super::super::problem::{Problem, ProblemBody};
use super::super::tags::{IfMatch, Tagged};
use super::Saved;
use super::oauth::target;
use crate::control::connect::{Business, ConnectTarget, Off, PhoneNumber, WhatsAppSaved, WhatsAppSpec};
use crate::model::refusal::Refusal;
use crate::model::secret::SecretFields;

/// The template of WhatsApp accounts.
const WHATSAPP: &str = "whatsapp";

pub(super) fn routes() -> OpenApiRouter<Rest> {
    OpenApiRouter::new().routes(routes!(config)).routes(routes!(complete)).routes(routes!(manual))
}

/// Whether people can sign up with Meta here. A token of their own can be given always.
#[derive(Serialize, ToSchema)]
#[schema(as = WhatsAppConfig)]
struct ConfigView {
    enabled: bool,
    /// Why not, for scripts: `MISSING_CLIENT_ID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Of the app at Meta, for its script.
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
}

/// What Meta's embedded signup gave to the page.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WhatsAppSignup)]
struct Signup {
    /// The name of a new connection; or else `connection_id`.
    #[schema(min_length = 1, max_length = 256)]
    display_name: Option<String>,
    /// A connection that is there, to be connected again: it keeps its id, and its account.
    connection_id: Option<String>,
    /// Of a new connection.
    environment: Option<String>,
    /// Good for half a minute, and once.
    #[schema(value_type = String)]
    code: SecretString,
    waba_id: String,
    phone_number_id: Option<String>,
}

/// A token that was made at Meta, and the account that it is for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WhatsAppManual)]
struct Manual {
    /// The name of a new connection; or else `connection_id`.
    #[schema(min_length = 1, max_length = 256)]
    display_name: Option<String>,
    /// A connection that is there, to be connected again: it keeps its id, and its account.
    connection_id: Option<String>,
    /// Of a new connection.
    environment: Option<String>,
    /// Of a system user, with `whatsapp_business_messaging` and `whatsapp_business_management`.
    #[schema(value_type = String)]
    access_token: SecretString,
    business_account_id: String,
    /// Which number to send from, if the account has several.
    phone_number_id: Option<String>,
}

/// A connection that was made, and what Meta tells of its account.
#[derive(Serialize, ToSchema)]
#[schema(as = WhatsAppSaved)]
struct SavedView {
    #[serde(flatten)]
    saved: Saved,
    #[serde(skip_serializing_if = "Option::is_none")]
    business: Option<BusinessView>,
}

/// A WhatsApp business account.
#[derive(Serialize, ToSchema)]
#[schema(as = WhatsAppBusiness)]
struct BusinessView {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    phone_numbers: Vec<NumberView>,
}

/// A number that it sends from.
#[derive(Serialize, ToSchema)]
#[schema(as = WhatsAppNumber)]
struct NumberView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_phone_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_name: Option<String>,
}

impl From<Business> for BusinessView {
    fn from(Business { name, phone_numbers }: Business) -> Self {
        let view =
            |PhoneNumber { id, shown, verified_name }| NumberView { id, display_phone_number: shown, verified_name };
        Self { name, phone_numbers: phone_numbers.into_iter().map(view).collect() }
    }
}

/// Whether people can sign up with Meta here.
#[utoipa::path(get, path = "/whatsapp/config", tag = "whatsapp", security(("token" = ["mcp:read"])),
    responses((status = 200, body = ConfigView), (status = "4XX", body = ProblemBody)))]
async fn config(asker: Asker<Read>, State(rest): State<Rest>) -> Result<Json<ConfigView>, Problem> {
    let template = asker.control.catalogue().get(WHATSAPP).ok_or_else(Refusal::internal)?;
    let client = rest.0.oauth.client(template, &SecretFields::new()).ok();
    let off = client.is_none().then_some(Off::Client);
    Ok(Json(ConfigView {
        enabled: off.is_none(),
        reason: off.map(Off::code),
        message: off
            .map(|_| "set oauth.clients.whatsapp (client_id, client_secret), or give a token of your own".to_owned()),
        app_id: client.map(|client| client.id),
    }))
}

/// Connects the account that somebody signed up with. The token for their code is fetched here, and never seen by a browser.
#[utoipa::path(post, path = "/whatsapp/complete", request_body = Signup, tag = "whatsapp",
    security(("token" = ["mcp:write"])),
    params(("If-Match" = Option<String>, Header, description = "The ETag of the connection that is there"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 200, body = SavedView, description = "Connected again"), (status = 201, body = SavedView),
        (status = "4XX", body = ProblemBody)))]
async fn complete(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    IfMatch(expected): IfMatch,
    body: JsonBody<Signup>,
) -> Result<Response, Problem> {
    let once = asker.once("whatsapp.complete", &body.bytes)?;
    let Signup { display_name, connection_id, environment, code, waba_id, phone_number_id } = body.value;
    let target = target(display_name, connection_id, environment, expected)?;
    let (is_new, spec) =
        (is_new(&target), WhatsAppSpec { target, business_account: waba_id, phone_number: phone_number_id });
    let (oauth, Asker { control, workspace, .. }) = (rest.0.oauth.clone(), asker);
    let saving = async move { control.whatsapp_complete(&workspace, &oauth, spec, &code, once.as_ref()).await };
    let saved = rest.to_its_end(saving).await;
    let place = |place: &str| match place {
        "business_account_id" => "/waba_id".to_owned(),
        "access_token" => "/code".to_owned(),
        other => pointer(other),
    };
    Ok(answer(saved.map_err(|error| Problem::of(error, place))?, is_new))
}

/// Connects an account by a token that somebody made at Meta, after a look whether it works.
#[utoipa::path(post, path = "/whatsapp/manual", request_body = Manual, tag = "whatsapp",
    security(("token" = ["mcp:write"])),
    params(("If-Match" = Option<String>, Header, description = "The ETag of the connection that is there"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes it once, however often it is sent")),
    responses((status = 200, body = SavedView, description = "Connected again"), (status = 201, body = SavedView),
        (status = "4XX", body = ProblemBody)))]
async fn manual(
    asker: Asker<Write>,
    State(rest): State<Rest>,
    IfMatch(expected): IfMatch,
    body: JsonBody<Manual>,
) -> Result<Response, Problem> {
    let once = asker.once("whatsapp.manual", &body.bytes)?;
    let Manual { display_name, connection_id, environment, access_token, business_account_id, phone_number_id } =
        body.value;
    let target = target(display_name, connection_id, environment, expected)?;
    let (is_new, spec) = (
        is_new(&target),
        WhatsAppSpec { target, business_account: business_account_id, phone_number: phone_number_id },
    );
    let (oauth, Asker { control, workspace, .. }) = (rest.0.oauth.clone(), asker);
    let saving = async move { control.whatsapp_manual(&workspace, &oauth, spec, access_token, once.as_ref()).await };
    let saved = rest.to_its_end(saving).await;
    Ok(answer(saved.map_err(|error| Problem::of(error, pointer))?, is_new))
}

fn is_new(target: &ConnectTarget) -> bool {
    matches!(target, ConnectTarget::New { .. })
}

fn answer(WhatsAppSaved { saved, business }: WhatsAppSaved, is_new: bool) -> Response {
    let saved = Saved::from(saved);
    let version = saved.connection.version;
    let view = SavedView { saved, business: business.map(BusinessView::from) };
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    (status, Tagged(version, Json(view))).into_response()
}

/// Where the body has what the operation calls by `place`.
fn pointer(place: &str) -> String {
    match place {
        "name" => "/display_name".to_owned(),
        other => format!("/{other}"),
    }
}
