//! `export`: a project as the manifest that would make it. Of credentials it has the names of their fields, and no value.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::manifest::{
    Connection, CredentialSource, Document, Instance, Override, Profile, Project, Server, Services, Token, Wire,
    Workflow,
};
use super::{Control, ControlError, Workspace};
use crate::model::caller::Scope;
use crate::model::connection::{self, ConnectionState};
use crate::model::id::{ConnectionId, InstanceId, ServerId};
use crate::model::profile::ConfigProfile;
use crate::model::server::McpServer;
use crate::store::{ProjectState, TokenRecord, WorkflowRecord};

impl Control {
    /// The project as a manifest. Applied where it came from, it changes nothing; applied elsewhere, it asks for each credential.
    pub async fn export(&self, workspace: &Workspace) -> Result<Document, ControlError> {
        let state = self.store.project_state(workspace.project.id).await?;
        let project = Names::of(&state).project(workspace.project.slug.to_string(), &state, self.clock.now());
        Ok(Document { tenant: workspace.tenant.slug.to_string(), projects: vec![project] })
    }
}

/// What manifests call things by.
struct Names {
    connections: HashMap<ConnectionId, String>,
    instances: HashMap<InstanceId, String>,
    servers: HashMap<ServerId, String>,
}

impl Names {
    fn of(state: &ProjectState) -> Self {
        Self {
            connections: state.connections.iter().map(|held| (held.id, held.name.clone())).collect(),
            instances: state.instances.iter().map(|held| (held.id, held.name.to_string())).collect(),
            servers: state.servers.iter().map(|held| (held.id, held.service.to_string())).collect(),
        }
    }

    fn project(&self, name: String, state: &ProjectState, now: Timestamp) -> Project {
        let own = state.servers.iter().filter(|server| server.tenant.is_some());
        let is_live = |token: &&TokenRecord| token.revoked_at.is_none() && token.expires_at.is_none_or(|end| end > now);
        let live = state.tokens.iter().filter(is_live).filter(|token| token.instance.is_none());
        // A manifest knows tokens by their names: of several that are called alike it has the first.
        let mut names = BTreeSet::new();
        let named = live.filter(|token| token.project.is_some()).filter(|token| names.insert(token.name.as_str()));
        let tokens = named.map(token).collect();
        Project {
            project: name,
            servers: own.map(server).collect(),
            connections: state.connections.iter().map(connection).collect(),
            instances: state.instances.iter().map(|held| self.instance(held, &state.profiles)).collect(),
            workflows: state.workflows.iter().map(|held| self.workflow(held)).collect(),
            tokens,
        }
    }

    fn instance(&self, held: &crate::store::InstanceRecord, profiles: &[(InstanceId, ConfigProfile)]) -> Instance {
        let own = || profiles.iter().filter(|(instance, _)| *instance == held.id).map(|(_, profile)| profile);
        let active = own().find(|profile| Some(profile.id) == held.active_profile);
        Instance {
            name: held.name.to_string(),
            server: self.servers.get(&held.server).cloned().unwrap_or_default(),
            active: active.map(|profile| profile.name.clone()),
            profiles: own().map(|profile| self.profile(profile)).collect(),
        }
    }

    fn profile(&self, profile: &ConfigProfile) -> Profile {
        let wire = |(key, wire): (&String, &crate::model::profile::Wire)| {
            (key.clone(), Wire { connection: self.connection(wire.connection), credential: wire.credential.clone() })
        };
        Profile {
            name: profile.name.clone(),
            values: Some(profile.values.clone()),
            wiring: Some(profile.source_spec.iter().map(wire).collect()),
        }
    }

    fn workflow(&self, held: &WorkflowRecord) -> Workflow {
        let rule = |rule: &crate::model::overrides::Override| Override {
            instance: self.instances.get(&rule.instance).cloned().unwrap_or_default(),
            connection: self.connection(rule.connection),
            step: rule.step.clone(),
            replaces: rule.replaces.map(|id| self.connection(id)),
        };
        Workflow {
            workflow: held.workflow.clone(),
            environment: held.environment.clone(),
            overrides: Some(held.overrides.iter().map(rule).collect()),
        }
    }

    /// One that is gone is told by its id: whoever applies that is told that there is none.
    fn connection(&self, id: ConnectionId) -> String {
        self.connections.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

fn server(server: &McpServer) -> Server {
    Server {
        service: server.service.to_string(),
        url: server.canonical_url.to_string(),
        name: Some(server.name.clone()),
        required_scopes: Some(server.required_scopes.clone()),
        config: Some(server.config_schema.clone()),
    }
}

fn connection(held: &connection::Connection) -> Connection {
    let ask = |field: &String| (field.clone(), CredentialSource::Prompt(format!("{} of {}", field, held.name)));
    let lease_path = held.source.lease_path().map(ToString::to_string);
    let credentials: BTreeMap<_, _> = match lease_path {
        None => held.fields.iter().map(ask).collect(),
        Some(_) => BTreeMap::new(),
    };
    let services = held.services.as_ref().map(|services| Services {
        enabled: Some(services.enabled.iter().cloned().collect()),
        scopes_granted: Some(services.scopes_granted.iter().cloned().collect()),
    });
    Connection {
        name: held.name.clone(),
        template: held.template.clone(),
        provider: Some(held.provider.clone()),
        service: held.service.clone(),
        environment: held.environment.clone(),
        account: held.account_label.clone(),
        services,
        enabled: (held.status.state == ConnectionState::Disabled).then_some(false),
        lease_path,
        credentials,
    }
}

fn token(token: &TokenRecord) -> Token {
    let scopes = Scope::ALL.iter().filter(|(scope, _)| token.scopes.contains(*scope));
    Token {
        name: token.name.clone(),
        role: token.role.to_string(),
        scopes: scopes.map(|(_, word)| (*word).to_owned()).collect(),
        expires_at: token.expires_at,
        file: None,
    }
}
