//! A link that somebody opens: they are told who asks for what, and only if they go on is their browser noted as the one of this
//! sign-in, and sent to the provider.

use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;
use url::Url;
use zeroize::Zeroizing;

use super::finished::NotConnected;
use super::{ConnectFault, asked, authorize_url, hash, is_hashed, random, state, verifier};
use crate::control::{Control, ControlError, Workspace};
use crate::model::address::address;
use crate::model::id::FlowId;
use crate::model::secret::SecretFields;
use crate::model::template::Template;
use crate::oauth::OAuth;
use crate::store::{FlowFound, FlowRecord};

/// What a person is told before they go on.
#[derive(Debug)]
pub struct Question {
    pub flow: FlowId,
    /// The provider, as people know it.
    pub provider: String,
    pub tenant: String,
    pub project: String,
    pub connection: String,
    /// The host that they are sent to.
    pub destination: String,
    /// Whether there was none before.
    pub is_new: bool,
    /// Who asks: the name of a token, if it has one still.
    pub asker: String,
    /// For a cookie that only this browser has.
    pub browser: Zeroizing<String>,
    /// For the form, which other sites cannot read: by it, who goes on has seen the question.
    pub proof: String,
}

/// Who goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opener<'a> {
    /// The key of the link, if that is what they have.
    pub link: Option<&'a str>,
    /// What their cookie says.
    pub browser: Option<&'a str>,
    /// What their form says.
    pub proof: Option<&'a str>,
}

/// Where the browser goes.
#[derive(Debug)]
pub struct Sent {
    pub location: Url,
    pub provider: String,
}

impl Control {
    /// Who asks for what. Changes nothing: links are opened by mail scanners and previews as well.
    pub async fn connect_look(&self, asked: &str, opener: Opener<'_>) -> Result<Question, NotConnected> {
        let found = self.flow_named(asked).await?;
        let question = self.question(&found, opener).await;
        question.map_err(|error| NotConnected::from(error).about(&found.flow))
    }

    async fn question(&self, found: &FlowFound, opener: Opener<'_>) -> Result<Question, ControlError> {
        self.may_open(found, opener).await?;
        let FlowFound { flow, tenant, project } = found;
        let template = self.template(&flow.template)?;
        let held = self.store.connection_get(project.id, &flow.connection.to_string()).await?;
        let held = held.ok_or(ConnectFault::Gone)?;
        let workspace = Workspace { tenant: tenant.clone(), project: project.clone() };
        let destination = self.destination(template, &workspace, flow).await?;
        let called = self.store.tokens_called((tenant.id, project.id), true, &flow.actor).await?;
        let token = called.into_iter().find(|token| token.id.to_string() == flow.actor);
        let browser = match opener.browser {
            Some(browser) => Zeroizing::new(browser.to_owned()),
            None => random()?,
        };
        Ok(Question {
            flow: flow.id,
            provider: template.display_name.clone(),
            tenant: tenant.name.clone(),
            project: project.name.clone(),
            connection: held.name,
            destination,
            is_new: held.status.is_unfinished(),
            asker: token.map_or_else(|| flow.actor.clone(), |token| token.name),
            proof: proof(&browser),
            browser,
        })
    }

    /// Sends a browser to the provider: the first one that goes on, and that one again for as long as the sign-in is not
    /// finished. With a new state, unless nobody came back with the present one: so it may do so in two tabs.
    pub async fn connect_open(&self, oauth: &OAuth, asked: &str, opener: Opener<'_>) -> Result<Sent, NotConnected> {
        let found = self.flow_named(asked).await?;
        let sent = self.open(oauth, &found, opener).await;
        sent.map_err(|error| {
            let again = matches!(&error, ControlError::Connect(fault) if **fault == ConnectFault::Busy);
            NotConnected { again, ..error.into() }.about(&found.flow)
        })
    }

    async fn open(&self, oauth: &OAuth, found: &FlowFound, opener: Opener<'_>) -> Result<Sent, ControlError> {
        self.may_open(found, opener).await?;
        let FlowFound { flow, tenant, project } = found;
        let browser = opener.browser.ok_or(ConnectFault::NoCookie)?;
        let is_proved = opener.proof.is_some_and(|said| said.as_bytes().ct_eq(proof(browser).as_bytes()).into());
        if !is_proved {
            return Err(ConnectFault::NoCookie.into());
        }
        if flow.busy_until.is_some_and(|until| until > self.clock.now()) {
            return Err(ConnectFault::Busy.into());
        }
        let workspace = Workspace { tenant: tenant.clone(), project: project.clone() };
        self.send(oauth, &workspace, flow, browser).await
    }

    async fn flow_named(&self, asked: &str) -> Result<FlowFound, ControlError> {
        let id: FlowId = asked.parse().map_err(|_| ConnectFault::Unknown)?;
        Ok(self.store.flow_get(id).await?.ok_or(ConnectFault::Unknown)?)
    }

    /// Whether somebody may open a sign-in: who has its link, or the browser that did so before.
    async fn may_open(&self, found: &FlowFound, opener: Opener<'_>) -> Result<(), ControlError> {
        let flow = &found.flow;
        let has_link = opener.link.is_some_and(|link| is_hashed(link, &flow.link_hash));
        let known = flow.browser_hash.as_ref();
        let is_back = known.is_some_and(|known| opener.browser.is_some_and(|browser| is_hashed(browser, known)));
        if !has_link && !is_back {
            return Err(ConnectFault::Unknown.into());
        }
        if flow.completed_at.is_some() {
            return Err(self.finished(found).await?.into());
        }
        if flow.expires_at <= self.clock.now() {
            return Err(ConnectFault::Expired.into());
        }
        match known.is_some() && !is_back {
            true => Err(ConnectFault::OtherBrowser.into()),
            false => Ok(()),
        }
    }

    /// The host that people are sent to, which those who set up a provider themselves choose.
    async fn destination(
        &self,
        template: &Template,
        workspace: &Workspace,
        flow: &FlowRecord,
    ) -> Result<String, ControlError> {
        let unavailable = || ConnectFault::Unavailable { provider: template.display_name.clone() };
        let pattern = template.oauth.as_ref().and_then(|it| it.authorize_url.as_ref()).ok_or_else(unavailable)?;
        let fields = match pattern.fields().next() {
            Some(_) => self.secrets.read(&workspace.stored_address(flow.secret)).await?.fields,
            None => SecretFields::new(),
        };
        let url = address(pattern, &fields).map_err(|_| unavailable())?;
        Ok(url.host_str().unwrap_or_default().to_owned())
    }

    /// A sign-in that came to its end, and what its connection is now.
    pub(super) async fn finished(
        &self,
        FlowFound { flow, project, .. }: &FlowFound,
    ) -> Result<ConnectFault, ControlError> {
        let held = self.store.connection_get(project.id, &flow.connection.to_string()).await?;
        Ok(ConnectFault::Finished { now: held.map(|held| (held.name, held.status.state)) })
    }

    async fn send(
        &self,
        oauth: &OAuth,
        workspace: &Workspace,
        flow: &FlowRecord,
        browser: &str,
    ) -> Result<Sent, ControlError> {
        let template = self.template(&flow.template)?;
        let secret = self.secrets.read(&workspace.stored_address(flow.secret)).await?.fields;
        let client = oauth.client(template, &secret).map_err(|no| asked::no_client(template, &no))?;
        // Another tab has the present one, and whoever comes back first is the one who is heard.
        let is_open = flow.attempt > 0 && flow.taken_at.is_none();
        let attempt = if is_open { flow.attempt } else { flow.attempt + 1 };
        let state = state(&secret, attempt).ok_or(ConnectFault::Expired)?;
        let verifier = verifier(&secret, &state).ok_or(ConnectFault::Expired)?;
        let location = authorize_url(oauth, template, &client, &secret, &flow.scopes_asked, &state, &verifier)
            .map_err(|_| ConnectFault::Unavailable { provider: template.display_name.clone() })?;
        if !is_open {
            let mut tx = self.begin().await?;
            if !tx.flow_open(flow.id, (&hash(browser), &hash(&state)), flow.attempt).await? {
                // Two at once: the other one was first.
                return Err(ConnectFault::Busy.into());
            }
            tx.commit().await?;
        }
        Ok(Sent { location, provider: template.display_name.clone() })
    }
}

/// What only a page has that was made for this browser.
fn proof(browser: &str) -> String {
    BASE64URL_NOPAD.encode(&hash(&format!("the question was shown to {browser}")))
}
