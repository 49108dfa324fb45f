//! What a resolution would come to, as far as wiring and states decide it: no secret is fetched, and nothing is handed out.

use super::{Resolver, materialise, plan};
use crate::limits;
use crate::model::caller::Caller;
use crate::model::connection::ConnectionState;
use crate::model::id::{ConnectionId, ProfileId};
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::model::wiring::{InstanceHead, Wiring};

/// What a resolution would come to.
#[derive(Debug, Default)]
pub struct Foresight {
    pub instance: Option<InstanceHead>,
    pub profile: Option<(ProfileId, String)>,
    pub connections: Vec<ForeseenConnection>,
    /// Everything that would be refused. A resolution answers the first.
    pub refusals: Vec<Refusal>,
}

/// A connection that would be used.
#[derive(Debug)]
pub struct ForeseenConnection {
    pub id: ConnectionId,
    /// What is known of it, unless it does not exist.
    pub known: Option<KnownConnection>,
    pub is_overridden: bool,
    /// The config keys that it feeds.
    pub keys: Vec<String>,
}

/// A connection that exists.
#[derive(Debug)]
pub struct KnownConnection {
    pub name: String,
    pub state: ConnectionState,
    pub environment: Option<String>,
}

impl Resolver {
    /// Whether `request` would be answered, and what is in its way.
    pub async fn foresee(&self, caller: &Caller, request: &ResolutionRequest) -> Foresight {
        match self.wiring(caller, request).await {
            Ok(found) => foresight(&found.wiring, request),
            Err(refusal) => Foresight { refusals: vec![refusal], ..Foresight::default() },
        }
    }
}

/// The refusal that a resolution outside of any workflow would meet, as far as it does not lie in the secrets.
pub fn check(wiring: &Wiring) -> Result<(), Refusal> {
    let request = ResolutionRequest {
        project: None,
        workflow: None,
        instance: InstanceRef::Id(wiring.instance.id),
        expected_server: None,
        step: None,
        min_token_ttl: limits::MIN_TOKEN_TTL_DEFAULT,
    };
    foresight(wiring, &request).refusals.into_iter().next().map_or(Ok(()), Err)
}

fn foresight(wiring: &Wiring, request: &ResolutionRequest) -> Foresight {
    let instance = &wiring.instance;
    let mut foresight = Foresight { instance: Some(instance.clone()), ..Foresight::default() };
    foresight.refusals.extend(plan::same_server(wiring, request).err());
    let Some(profile) = &wiring.profile else {
        foresight.refusals.push(Refusal::no_active_profile(instance));
        return foresight;
    };
    foresight.profile = Some((profile.id, profile.name.clone()));
    for choice in plan::choices(wiring, profile, request) {
        let known = wiring.connections.get(&choice.connection).map(|connection| KnownConnection {
            name: connection.name.clone(),
            state: connection.status.state,
            environment: connection.environment.clone(),
        });
        foresight.connections.push(ForeseenConnection {
            id: choice.connection,
            known,
            is_overridden: choice.is_overridden,
            keys: choice.keys.into_iter().map(str::to_owned).collect(),
        });
        foresight.refusals.extend(choice.refusal);
    }
    foresight.refusals.extend(materialise::invalid_values(wiring, profile));
    let missing = profile.missing_keys(&instance.config_schema);
    if !missing.is_empty() {
        foresight.refusals.push(Refusal::config_incomplete(instance, &profile.name, &missing));
    }
    foresight
}
