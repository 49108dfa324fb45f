//! A link that somebody opens: the browser is noted as the one of this sign-in, and sent to the provider.

use zeroize::Zeroizing;

use super::finished::NotConnected;
use super::{ConnectFault, asked, authorize_url, hash, is_hashed, random, verifier};
use crate::control::{Control, ControlError, Workspace};
use crate::model::id::FlowId;
use crate::oauth::OAuth;
use crate::store::{FlowFound, FlowRecord};
use url::Url;

/// Where the browser goes, and what it is known by when it comes back.
#[derive(Debug)]
pub struct Sent {
    pub flow: FlowId,
    pub location: Url,
    /// For a cookie that only this browser has.
    pub browser: Zeroizing<String>,
}

impl Control {
    /// Sends a browser to the provider: the first one that opens the link, and that one again for as long as the sign-in is not
    /// finished. Each time with a new state.
    pub async fn connect_open(
        &self,
        oauth: &OAuth,
        asked: &str,
        link: Option<&str>,
        browser: Option<&str>,
    ) -> Result<Sent, NotConnected> {
        let id: FlowId = asked.parse().map_err(|_| ConnectFault::Unknown)?;
        let found = self.store.flow_get(id).await.map_err(ControlError::from)?.ok_or(ConnectFault::Unknown)?;
        let browser = self.browser_of(&found.flow, link, browser)?;
        let FlowFound { flow, tenant, project } = found;
        let workspace = Workspace { tenant, project };
        Ok(self.send(oauth, &workspace, &flow, browser).await?)
    }

    /// What the browser is known by: what it has already, or something new for the first one.
    fn browser_of(
        &self,
        flow: &FlowRecord,
        link: Option<&str>,
        browser: Option<&str>,
    ) -> Result<Zeroizing<String>, ControlError> {
        let has_link = link.is_some_and(|link| is_hashed(link, &flow.link_hash));
        let known = flow.browser_hash.as_ref();
        let is_back = known.is_some_and(|known| browser.is_some_and(|browser| is_hashed(browser, known)));
        if !has_link && !is_back {
            return Err(ConnectFault::Unknown.into());
        }
        if flow.completed_at.is_some() {
            return Err(ConnectFault::Finished.into());
        }
        if flow.expires_at <= self.clock.now() {
            return Err(ConnectFault::Expired.into());
        }
        match (known, browser) {
            (Some(_), Some(browser)) if is_back => Ok(Zeroizing::new(browser.to_owned())),
            (Some(_), _) => Err(ConnectFault::OtherBrowser.into()),
            (None, _) => Ok(random()?),
        }
    }

    async fn send(
        &self,
        oauth: &OAuth,
        workspace: &Workspace,
        flow: &FlowRecord,
        browser: Zeroizing<String>,
    ) -> Result<Sent, ControlError> {
        let template = self.template(&flow.template)?;
        let secret = self.secrets.read(&workspace.stored_address(flow.secret)).await?.fields;
        let client = oauth.client(template, &secret).map_err(|no| asked::no_client(template, &no))?;
        let state = random()?;
        let verifier = verifier(&secret, &state).ok_or(ConnectFault::Expired)?;
        let location = authorize_url(oauth, template, &client, &secret, &flow.scopes_asked, &state, &verifier)
            .map_err(|_| ConnectFault::Unavailable { provider: template.display_name.clone() })?;
        let mut tx = self.begin().await?;
        if !tx.flow_open(flow.id, &hash(&browser), &hash(&state)).await? {
            return Err(ConnectFault::OtherBrowser.into());
        }
        tx.commit().await?;
        Ok(Sent { flow: flow.id, location, browser })
    }
}
