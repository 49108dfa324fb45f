//! Rule 1 for callers that are bound to one instance, workflow and step: the one place that holds them to it.

use super::Resolver;
use super::plan;
use super::wirings::Found;
use crate::model::caller::{Binding, Caller};
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::model::wiring::InstanceHead;

impl Resolver {
    /// The wiring that `request` means, if `caller` may resolve it. Everything that is resolved or explained comes by here.
    pub(super) async fn wiring(&self, caller: &Caller, request: &ResolutionRequest) -> Result<Found, Refusal> {
        match &caller.binding {
            None => self.wirings.find(caller, request).await,
            Some(binding) => self.wiring_of(binding, caller, request).await,
        }
    }

    /// The instance that `request` means, if `caller` may resolve it.
    pub async fn instance(&self, caller: &Caller, request: &ResolutionRequest) -> Result<InstanceHead, Refusal> {
        let Found { wiring, .. } = self.wiring(caller, request).await?;
        plan::same_server(&wiring, request)?;
        Ok(wiring.instance.clone())
    }

    /// Whatever is asked, a bound caller's own instance is looked up and compared: it costs the same whether another one
    /// exists, and the answer does not tell.
    async fn wiring_of(
        &self,
        binding: &Binding,
        caller: &Caller,
        request: &ResolutionRequest,
    ) -> Result<Found, Refusal> {
        let own = ResolutionRequest {
            instance: InstanceRef::Id(binding.instance),
            workflow: binding.workflow.clone(),
            ..request.clone()
        };
        match self.wirings.find(caller, &own).await {
            Ok(found) if is_meant(&found.wiring.instance, binding, request) => Ok(found),
            Err(refusal) if refusal.reason != Reason::InstanceNotFound => Err(refusal),
            Ok(_) | Err(_) => Err(Refusal::nothing_found(&request.instance)),
        }
    }
}

/// Whether `request` asks for nothing but what the caller is bound to.
fn is_meant(own: &InstanceHead, binding: &Binding, request: &ResolutionRequest) -> bool {
    let is_own = match &request.instance {
        InstanceRef::Id(id) => *id == own.id,
        InstanceRef::Name(name) => *name == own.name,
        InstanceRef::Server(url) => *url == own.server_url,
    };
    is_own && request.workflow == binding.workflow && request.step == binding.step
}
