//! How sign-ins at providers end: worked on to their end, counted, and logged where they fail, by code and never by what was said.

use super::Rest;
use super::front::RequestId;
use crate::control::ControlError;
use crate::control::connect::{ConnectFault, Connected, NotConnected};
use crate::metrics::ConnectOutcome;
use crate::model::refusal::Refusal;

impl Rest {
    /// Finishes a sign-in to its end, even if whoever waits for it goes away: a code is good only once.
    pub(super) async fn finished(
        &self,
        request: &RequestId,
        finishing: impl Future<Output = Result<Connected, NotConnected>> + Send + 'static,
    ) -> Result<Connected, NotConnected> {
        let (rest, request) = (self.clone(), request.clone());
        let ending = async move {
            let ended = finishing.await;
            rest.0.metrics.connect(outcome(&ended));
            if let Err(no) = &ended {
                log(no, &request);
            }
            ended
        };
        let ended = self.0.tasks.spawn(ending).await;
        ended.unwrap_or_else(|_| Err(NotConnected::from(ControlError::from(Refusal::internal()))))
    }
}

/// Why somebody was not connected, or not sent to where they connect: for whoever is asked for help.
pub(super) fn log(no: &NotConnected, RequestId(request_id): &RequestId) {
    let (flow, connection) = no.about.unzip();
    let [flow, connection] = [flow.map(|id| id.to_string()), connection.map(|id| id.to_string())];
    let (flow, connection, code) = (flow.as_deref(), connection.as_deref(), no.error.code());
    match &*no.error {
        // Its words are our own, and name accounts at most by what they are known by; the code says enough all the same.
        ControlError::Connect(_) => {
            tracing::info!(%request_id, sign_in = flow, connection.id = connection, code, "a sign-in was refused");
        }
        error => {
            tracing::warn!(%request_id, sign_in = flow, connection.id = connection, code, %error, "a sign-in broke off");
        }
    }
}

fn outcome(ended: &Result<Connected, NotConnected>) -> ConnectOutcome {
    let error = match ended {
        Ok(done) if done.scopes_missing.is_empty() => return ConnectOutcome::Connected,
        Ok(_) => return ConnectOutcome::Partial,
        Err(no) => &*no.error,
    };
    let ControlError::Connect(fault) = error else { return ConnectOutcome::Error };
    match **fault {
        ConnectFault::Cancelled { .. } => ConnectOutcome::Cancelled,
        ConnectFault::Refused { .. } | ConnectFault::AddressNotAllowed { .. } => ConnectOutcome::Refused,
        ConnectFault::Unavailable { .. } | ConnectFault::AccountUnknown { .. } => ConnectOutcome::Unavailable,
        ConnectFault::AccountChanged { .. } => ConnectOutcome::OtherAccount,
        ConnectFault::WrongIssuer { .. }
        | ConnectFault::OtherBrowser
        | ConnectFault::NoAnswer { .. }
        | ConnectFault::Unknown => ConnectOutcome::Foreign,
        ConnectFault::Expired
        | ConnectFault::Used
        | ConnectFault::Busy
        | ConnectFault::Finished { .. }
        | ConnectFault::Gone
        | ConnectFault::Changed => ConnectOutcome::Late,
        _ => ConnectOutcome::Error,
    }
}
