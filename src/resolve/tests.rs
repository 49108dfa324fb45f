//! The rules as tables: one small world, one thing wrong with it in each row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::trail::Silent;
use super::{materialise, plan};
use crate::clock::Clock;
use crate::model::connection::{AccountServices, Connection, ConnectionState, Status};
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId};
use crate::model::overrides::Override;
use crate::model::profile::{ConfigProfile, Wire};
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::resolution::{Freshness, InstanceRef, Resolution, ResolutionRequest, ResolvedValue, ValueSource};
use crate::model::schema::{ConfigField, ConfigValue, ValueType};
use crate::model::secret::{ExposeSecret, SecretDocument, SecretSource, SecretString};
use crate::model::wiring::{InstanceHead, Wiring};
use crate::secrets::cache::Fetched;

/// An instance whose key `TOKEN` is wired to the production connection, with a sandbox connection to override it.
struct World {
    wiring: Wiring,
    request: ResolutionRequest,
    production: ConnectionId,
    sandbox: ConnectionId,
}

fn world() -> World {
    let (production, sandbox) = (connection("Production", "production"), connection("Sandbox", "sandbox"));
    let (production_id, sandbox_id) = (production.id, sandbox.id);
    let instance = InstanceId::generate();
    let wire = Wire { connection: production_id, credential: "api_key".into() };
    let wiring = Wiring {
        instance: InstanceHead {
            id: instance,
            name: "pay".into(),
            tenant_id: TenantId::generate(),
            project_id: ProjectId::generate(),
            server_id: ServerId::generate(),
            tenant: "acme".parse().unwrap(),
            project: "shop".parse().unwrap(),
            service: "gmail".parse().unwrap(),
            server_url: "https://mcp.example.com/pay".parse().unwrap(),
            config_schema: BTreeMap::from([
                ("REGION".into(), field(ValueType::String, Some(ConfigValue::String("eu".into())))),
                ("RETRIES".into(), field(ValueType::Number, None)),
                ("TOKEN".into(), ConfigField { required: true, ..field(ValueType::String, None) }),
            ]),
            required_scopes: vec!["mail.read".into()],
        },
        profile: Some(ConfigProfile {
            id: ProfileId::generate(),
            name: "default".into(),
            values: BTreeMap::new(),
            source_spec: BTreeMap::from([("TOKEN".into(), wire)]),
            version: 1,
        }),
        overrides: Vec::new(),
        workflow_environment: None,
        connections: BTreeMap::from([(production_id, production), (sandbox_id, sandbox)]),
    };
    let request = ResolutionRequest {
        project: None,
        workflow: Some("checkout".into()),
        instance: InstanceRef::Id(instance),
        expected_server: None,
        step: Some("charge".into()),
        min_token_ttl: crate::limits::MIN_TOKEN_TTL_DEFAULT,
    };
    World { wiring, request, production: production_id, sandbox: sandbox_id }
}

fn connection(name: &str, environment: &str) -> Connection {
    Connection {
        id: ConnectionId::generate(),
        name: name.into(),
        template: "generic-api-key".into(),
        provider: "generic".into(),
        service: None,
        account_label: None,
        fields: BTreeSet::from(["api_key".into()]),
        source: SecretSource::Stored,
        environment: Some(environment.into()),
        services: None,
        status: Status { state: ConnectionState::Active, reason: None, since: Timestamp::UNIX_EPOCH },
        version: 1,
    }
}

fn field(kind: ValueType, default: Option<ConfigValue>) -> ConfigField {
    ConfigField { kind, display_name: None, required: false, default, secret: false }
}

impl World {
    fn profile(&mut self) -> &mut ConfigProfile {
        self.wiring.profile.as_mut().unwrap()
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.wiring.connections.get_mut(&id).unwrap()
    }

    fn override_with(&mut self, connection: ConnectionId, step: Option<&str>) {
        let step = step.map(str::to_owned);
        self.wiring.overrides.push(Override { instance: self.wiring.instance.id, step, replaces: None, connection });
    }

    fn resolve(&self) -> Result<Resolution, Refusal> {
        plan::same_server(&self.wiring, &self.request)?;
        let plan = plan::plan(&self.wiring, &self.request, &mut Silent)?;
        let secrets: Vec<Fetched> = plan.uses.iter().map(|planned| secret_of(&planned.connection.name)).collect();
        materialise::materialise(&self.wiring, &plan, &secrets, Timestamp::UNIX_EPOCH)
    }
}

fn secret_of(name: &str) -> Fetched {
    let fields = BTreeMap::from([("api_key".to_owned(), SecretString::from(format!("key of {name}")))]);
    Fetched {
        document: Arc::new(SecretDocument { fields, version: 3, generation: None, expires_at: None }),
        freshness: Freshness::Cached,
        fetched_at: Timestamp::UNIX_EPOCH,
        refresh_after: Timestamp::UNIX_EPOCH,
        recheck_at: Clock::System.moment(),
    }
}

fn token(resolution: &Resolution) -> &str {
    let entry = resolution.config.iter().find(|entry| entry.key == "TOKEN").unwrap();
    match &entry.value {
        ResolvedValue::Secret(secret) => secret.expose_secret(),
        ResolvedValue::Plain(_) => panic!("a credential came out as a plain value"),
    }
}

#[test]
fn the_profile_is_overridden_by_the_workflow_and_that_by_the_step() {
    let mut world = world();
    assert_eq!(token(&world.resolve().unwrap()), "key of Production");
    world.override_with(world.sandbox, None);
    assert_eq!(token(&world.resolve().unwrap()), "key of Sandbox");
    world.override_with(world.production, Some("charge"));
    assert_eq!(token(&world.resolve().unwrap()), "key of Production");
    world.request.step = Some("refund".into());
    assert_eq!(token(&world.resolve().unwrap()), "key of Sandbox");
}

#[test]
fn the_answer_says_which_override_replaced_which_connection() {
    let mut world = world();
    world.override_with(world.sandbox, Some("charge"));
    let resolution = world.resolve().unwrap();
    let used = &resolution.provenance.connections[0];
    let applied = used.applied_override.as_ref().unwrap();
    assert_eq!((used.id, used.secret_version), (world.sandbox, 3));
    assert_eq!((applied.workflow.as_str(), applied.step.as_deref()), ("checkout", Some("charge")));
    assert_eq!(applied.replaced, world.production);
}

#[test]
fn each_thing_that_is_wrong_has_its_reason() {
    type Spoil = fn(&mut World);
    let table: [(Reason, Spoil); 14] = [
        (Reason::ServerUrlMismatch, |w| w.request.expected_server = Some("https://other.example.com".parse().unwrap())),
        (Reason::NoActiveProfile, |w| w.wiring.profile = None),
        (Reason::ConnectionMissing, |w| drop(w.wiring.connections.remove(&w.production))),
        (Reason::ConnectionMissing, |w| w.override_with(ConnectionId::generate(), None)),
        (Reason::SecretMissing, |w| w.connection(w.production).fields.clear()),
        (Reason::OverrideIncompatible, |w| {
            w.override_with(w.sandbox, None);
            w.connection(w.sandbox).fields = BTreeSet::from(["password".into()]);
        }),
        (Reason::EnvironmentMismatch, |w| w.wiring.workflow_environment = Some("sandbox".into())),
        (Reason::ReconnectRequired, |w| w.connection(w.production).status.state = ConnectionState::Reconnect),
        (Reason::ConnectionDisabled, |w| w.connection(w.production).status.state = ConnectionState::Disabled),
        (Reason::ConnectionPending, |w| w.connection(w.production).status.state = ConnectionState::Pending),
        (Reason::ServiceNotEnabled, |w| w.connection(w.production).services = Some(AccountServices::default())),
        (Reason::ScopeMissing, |w| {
            let enabled = BTreeSet::from(["gmail".into()]);
            w.connection(w.production).services = Some(AccountServices { enabled, ..AccountServices::default() });
        }),
        (Reason::ConfigIncomplete, |w| w.profile().source_spec.clear()),
        (Reason::ConfigInvalid, |w| {
            w.profile().values.insert("RETRIES".into(), ConfigValue::String("many".into()));
        }),
    ];
    for (reason, spoil) in table {
        let mut world = world();
        spoil(&mut world);
        let refusal = world.resolve().err().unwrap_or_else(|| panic!("{reason} was let pass"));
        assert_eq!(refusal.reason, reason);
    }
}

#[test]
fn an_override_that_cannot_serve_never_falls_back_to_the_profile() {
    let mut world = world();
    world.override_with(world.sandbox, None);
    world.connection(world.sandbox).status.state = ConnectionState::Disabled;
    assert_eq!(world.resolve().unwrap_err().reason, Reason::ConnectionDisabled);
}

#[test]
fn one_connection_in_place_of_several_is_used_once() {
    let mut world = world();
    let wire = Wire { connection: world.sandbox, credential: "api_key".into() };
    world.profile().source_spec.insert("REGION".into(), wire);
    let spare = connection("Spare", "production");
    let id = spare.id;
    world.wiring.connections.insert(id, spare);
    world.override_with(id, None);
    let resolution = world.resolve().unwrap();
    let used: Vec<ConnectionId> = resolution.provenance.connections.iter().map(|used| used.id).collect();
    assert_eq!(used, [id]);
    assert_eq!(token(&resolution), "key of Spare");
}

#[test]
fn a_degraded_connection_still_serves() {
    let mut world = world();
    world.connection(world.production).status.state = ConnectionState::Degraded;
    assert_eq!(token(&world.resolve().unwrap()), "key of Production");
}

#[test]
fn defaults_yield_to_values_and_values_to_credentials() {
    let mut world = world();
    world.profile().values.insert("REGION".into(), ConfigValue::String("us".into()));
    world.profile().values.insert("TOKEN".into(), ConfigValue::String("typed by hand".into()));
    world.profile().values.insert("RETRIES".into(), ConfigValue::String("3".into()));
    let resolution = world.resolve().unwrap();
    let sources: Vec<(&str, ValueSource, bool)> =
        resolution.config.iter().map(|entry| (entry.key.as_str(), entry.source, entry.secret)).collect();
    let expected = [
        ("REGION", ValueSource::Profile, false),
        ("RETRIES", ValueSource::Profile, false),
        ("TOKEN", ValueSource::Connection(world.production), true),
    ];
    assert_eq!(sources, expected);
    assert!(matches!(resolution.config[1].value, ResolvedValue::Plain(ConfigValue::Number(3.0))));
    assert_eq!(token(&resolution), "key of Production");
}

#[test]
fn a_refusal_names_keys_and_never_values() {
    let mut world = world();
    world.profile().values.insert("RETRIES".into(), ConfigValue::String("canary".into()));
    let refusal = world.resolve().unwrap_err();
    assert!(refusal.message.contains("RETRIES"));
    assert!(!format!("{refusal:?}").contains("canary"));
}
