//! One HTTP request with the template's header.

use std::sync::Arc;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use url::Url;

use super::{STEP, Way, good, malformed, missing, refused, untold};
use crate::limits;
use crate::model::address::{NoAddress, crosses_a_network_in_the_clear};
use crate::model::probe::{HttpProbe, ProbeMethod};
use crate::model::secret::{ExposeSecret, SecretFields};
use crate::model::template::Template;
use crate::probe::reach::{self, Place};
use crate::probe::report::{Finding, Found, Kind, Run};

pub(super) async fn attempt(
    template: &Template,
    probe: &HttpProbe,
    fields: &SecretFields,
    way: &Way<'_>,
    run: &mut Run,
) {
    let url = match address(probe, fields) {
        Ok(url) => url,
        Err(finding) => {
            run.fail(Kind::Credential, finding);
            return;
        }
    };
    let Some(place) = Place::of(&url) else { return };
    let checked = reach::find(way.egress, &place, run).await;
    let handshake = async {
        let checked = checked.as_ref().ok_or_else(|| Finding::skipped("there is no address"))?;
        reach::tls(&url, checked, Arc::clone(&way.tls.named), way.now).await
    };
    run.check(Kind::Tls, limits::PROBE_TLS_DEADLINE, handshake).await;
    let asking = async {
        let checked = checked.as_ref().ok_or_else(|| Finding::skipped("there is no address"))?;
        let client = reach::client(&place, checked, &way.tls.named, STEP)?;
        let request = request(&client, url.clone(), template, probe, fields)?;
        let answer = request.send().await.map_err(|error| reach::unreachable(error.is_connect()))?;
        judge(probe, answer).await
    };
    run.check(Kind::Credential, STEP, asking).await;
}

fn address(probe: &HttpProbe, fields: &SecretFields) -> Result<Url, Finding> {
    let url = probe.address(fields).map_err(|error| match error {
        NoAddress::FieldMissing(field) => missing(&format!("the field {field:?}")),
        odd => malformed(&odd.to_string(), "correct the field in the connection"),
    })?;
    match crosses_a_network_in_the_clear(&url) {
        true => {
            let reason = "its address is http: the credential would cross a network in the clear";
            Err(Finding::fail("NOT_ENCRYPTED", reason, "give an https address"))
        }
        false => Ok(url),
    }
}

fn request(
    client: &reqwest::Client,
    url: Url,
    template: &Template,
    probe: &HttpProbe,
    fields: &SecretFields,
) -> Result<RequestBuilder, Finding> {
    let method = match probe.method {
        ProbeMethod::Get => Method::GET,
        ProbeMethod::Head => Method::HEAD,
        ProbeMethod::Post => Method::POST,
    };
    let mut request = client.request(method, url);
    for header in &probe.headers {
        request = request.header(&header.name, &header.value);
    }
    let Some(shape) = &template.header else { return Ok(request) };
    let value = shape.fill(fields).ok_or_else(|| missing("a field of the header that carries it"))?;
    let odd = || {
        malformed("the credential has characters that no header can carry", "save it again, as the provider shows it")
    };
    let name: HeaderName = shape.name.parse().map_err(|_| odd())?;
    let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| odd())?;
    value.set_sensitive(true);
    Ok(request.header(name, value))
}

/// What the answer says of the credential.
async fn judge(probe: &HttpProbe, mut answer: Response) -> Found<()> {
    let status = answer.status().as_u16();
    if status == probe.expects {
        let Some(pointer) = &probe.true_at else { return Ok(((), good(&status.to_string()))) };
        let says = serde_json::from_slice::<Value>(&beginning(&mut answer).await).ok();
        return match says.as_ref().and_then(|says| says.pointer(pointer)) {
            Some(Value::Bool(true)) => Ok(((), good(&status.to_string()))),
            Some(Value::Bool(false)) => Err(refused(&status.to_string())),
            _ => Ok(((), untold("the provider's answer is not of the known form"))),
        };
    }
    if probe.refuses.contains(&status) {
        let body = beginning(&mut answer).await;
        let body = String::from_utf8_lossy(&body);
        return match probe.known_by.iter().any(|word| body.contains(word.as_str())) {
            true => {
                Ok(((), good(&format!("{status}, for want of a permission that the trial needs and nothing else"))))
            }
            false => Err(refused(&status.to_string())),
        };
    }
    Ok(((), untold(&format!("the provider answers with {status}"))))
}

/// As much of the body as is looked at.
async fn beginning(answer: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        let room = limits::PROBE_BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() >= limits::PROBE_BODY_BYTES_MAX {
            break;
        }
    }
    body
}
