//! `apply` without database and secret store: a project in memory, brought to what a manifest says by the same pure parts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;

use super::check::{self, Current, Findings, Site};
use super::connect::token_fields;
use super::credentials::{self, Outside};
use super::diff::{Change, Write, diff};
use super::manifest::Manifest;
use super::{DEMO_MANIFEST, new_project, new_tenant};
use crate::model::connection::ConnectionState;
use crate::model::id::ConnectionId;
use crate::model::secret::{ExposeSecret, SecretDocument, SecretString};
use crate::model::token::TokenText;
use crate::templates::Catalogue;

/// What stands around the manifest in these tests.
#[derive(Default)]
struct Room {
    variables: BTreeMap<&'static str, &'static str>,
    asked: Mutex<Vec<String>>,
}

impl Outside for Room {
    fn variable(&self, name: &str) -> Result<SecretString, String> {
        let value = self.variables.get(name).map(|value| SecretString::from(*value));
        value.ok_or_else(|| format!("the environment has no variable {name}"))
    }

    fn file(&self, path: &Path) -> Result<SecretString, String> {
        Ok(SecretString::from(format!("content of {}\n", path.display())))
    }

    fn ask(&self, question: &str) -> Result<SecretString, String> {
        self.asked.lock().unwrap().push(question.to_owned());
        Ok(SecretString::from("answer"))
    }

    fn keep_token(&self, _: &Path, _: &TokenText) -> Result<(), String> {
        Ok(())
    }
}

/// One project and its secrets.
struct World {
    current: RefCell<Current>,
    secrets: RefCell<BTreeMap<ConnectionId, SecretDocument>>,
    room: Room,
}

/// What a run told: change lines, mistakes, warnings.
#[derive(Debug, Default)]
struct Told {
    changes: Vec<String>,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

impl World {
    fn empty() -> Self {
        let tenant = new_tenant(&"acme".parse().unwrap());
        let state = check::empty_state(new_project(tenant.id, &"shop".parse().unwrap()), Vec::new());
        let current = Current { tenant, tenant_is_new: true, project_is_new: true, state };
        Self { current: RefCell::new(current), secrets: RefCell::default(), room: Room::default() }
    }

    /// A world in which `manifest` was applied.
    fn with(manifest: &str) -> Self {
        let world = Self::empty();
        let told = world.apply(manifest);
        assert!(told.mistakes.is_empty(), "{told:?}");
        world
    }

    fn apply(&self, manifest: &str) -> Told {
        let (told, changes) = self.plan(manifest, true);
        for change in changes {
            self.carry_out(change.write);
        }
        told
    }

    fn dry_run(&self, manifest: &str) -> Told {
        self.plan(manifest, false).0
    }

    fn plan(&self, manifest: &str, may_ask: bool) -> (Told, Vec<Change>) {
        let manifest = Manifest::parse(manifest).unwrap();
        let (catalogue, now) = (Catalogue::built_in(), Timestamp::UNIX_EPOCH);
        let site = Site { catalogue: &catalogue, issues_leases: true, lease_paths: &[], now };
        let mut findings = Findings::default();
        let targets = check::targets(&manifest, &mut findings);
        let current = self.current.borrow();
        let mut changes = Vec::new();
        if let [target] = &targets[..] {
            let servers =
                check::servers::check(&[target], &current.tenant, current.state.servers.clone(), &mut findings);
            let desired = check::check(target, &current, &servers, site, &mut findings);
            let mut after = BTreeMap::new();
            for connection in desired.connections.iter().filter(|_| findings.mistakes.is_empty()).collect::<Vec<_>>() {
                let id = connection.connection.id;
                let template = catalogue.get(&connection.connection.template).unwrap();
                let secrets = self.secrets.borrow();
                let read =
                    credentials::read(connection, template, secrets.get(&id), &self.room, may_ask, &mut findings);
                after.insert(id, read);
            }
            if findings.mistakes.is_empty() {
                changes = diff(&current, &desired, &after, now);
            }
        }
        let told = Told {
            changes: changes.iter().map(ToString::to_string).collect(),
            mistakes: findings.mistakes.iter().map(ToString::to_string).collect(),
            warnings: findings.warnings.iter().map(ToString::to_string).collect(),
        };
        (told, changes)
    }

    fn carry_out(&self, write: Write) {
        let mut current = self.current.borrow_mut();
        let state = &mut current.state;
        match write {
            Write::Tenant(_) => current.tenant_is_new = false,
            Write::Project(_) => current.project_is_new = false,
            Write::Server(server) => {
                state.servers.retain(|held| held.id != server.id);
                state.servers.push(server);
            }
            Write::ConnectionInsert(mut connection, credential)
            | Write::ConnectionUpdate(mut connection, credential) => {
                connection.version += 1;
                if let Some(write) = credential {
                    let document = SecretDocument {
                        fields: write.fields,
                        version: write.previous + 1,
                        generation: None,
                        expires_at: None,
                    };
                    self.secrets.borrow_mut().insert(connection.id, document);
                }
                state.connections.retain(|held| held.id != connection.id);
                state.connections.push(connection);
            }
            Write::Instance(instance) => state.instances.push(instance),
            Write::ActiveProfile(instance, profile) => {
                let held = state.instances.iter_mut().find(|held| held.id == instance);
                held.unwrap().active_profile = profile;
            }
            Write::ProfileInsert(instance, profile) => state.profiles.push((instance, profile)),
            Write::ProfileUpdate(profile) => {
                let held = state.profiles.iter_mut().find(|(_, held)| held.id == profile.id);
                held.unwrap().1 = profile;
            }
            Write::Workflow(workflow) => {
                state.workflows.retain(|held| held.workflow != workflow.workflow);
                state.workflows.push(workflow);
            }
            Write::Token(_) => {}
        }
    }

    fn secret(&self, connection: &str, field: &str) -> String {
        let current = self.current.borrow();
        let held = current.state.connections.iter().find(|held| held.name == connection).unwrap();
        self.secrets.borrow()[&held.id].fields[field].expose_secret().to_owned()
    }
}

/// A project with one of everything; `$VARIANTS` are replaced by the pairs given.
fn shop(replaced: &[(&str, &str)]) -> String {
    let mut text = "
tenant: acme
projects:
- project: shop
  servers:
  - service: echo
    url: https://mcp.example.com/echo
    config:
      KEY: {type: string, required: true, secret: true}
      REGION: {type: string, default: eu-west-1}
      RETRIES: {type: number}
  connections:
  - {name: Main, template: generic-api-key, environment: production, credentials: {api_key: {value: k1}}}
  - {name: Test, template: generic-api-key, environment: sandbox, credentials: {api_key: {value: k2}}}
  - {name: Token, template: github, credentials: {token: {value: ghp_k3}}}
  instances:
  - name: echo
    server: echo
    active: default
    profiles:
    - name: default
      values: {REGION: us-east-1}
      wiring:
        KEY: {connection: Main, credential: api_key}
  workflows:
  - workflow: nightly
    environment: sandbox
    overrides:
    - {instance: echo, connection: Test}
  tokens:
  - {name: executor, role: project_viewer, scopes: ['mcp:execute']}
"
    .to_owned();
    for (from, to) in replaced {
        assert!(text.contains(from), "{from:?} is not in the manifest");
        text = text.replace(from, to);
    }
    text
}

#[test]
fn a_new_project_is_made_in_an_order_that_the_database_can_follow() {
    let told = World::empty().apply(&shop(&[]));
    insta::assert_snapshot!(told.changes.join("\n"), @r#"
    + tenant acme
    + project shop
    + server echo (https://mcp.example.com/echo)
    + connection "Main" (generic-api-key)
    + connection "Test" (generic-api-key)
    + connection "Token" (github)
    + instance echo (server echo)
    + profile echo/default
    ~ instance echo: active profile default
    + workflow nightly
    + token "executor" (project_viewer, mcp:execute)
    "#);
    assert!(told.mistakes.is_empty(), "{told:?}");
}

#[test]
fn applying_again_changes_nothing() {
    for manifest in [
        shop(&[("  tokens:\n  - {name: executor, role: project_viewer, scopes: ['mcp:execute']}\n", "")]),
        DEMO_MANIFEST.to_owned(),
    ] {
        let world = World::with(&manifest);
        assert_eq!(world.apply(&manifest).changes, [""; 0]);
    }
}

#[test]
fn each_change_is_one_line_without_values_of_credentials() {
    let table: [(&str, &str, &[&str]); 14] = [
        ("us-east-1", "eu-central-1", &["~ profile echo/default: values.REGION us-east-1 -> eu-central-1"]),
        (
            "{REGION: us-east-1}",
            "{RETRIES: 3}",
            &["~ profile echo/default: values.REGION removed, values.RETRIES 3 added"],
        ),
        ("value: k1", "value: k4", &["~ connection \"Main\": credentials: api_key changed"]),
        ("{value: k1}", "{value: k1}, extra: {value: x}", &["~ connection \"Main\": credentials: extra added"]),
        ("environment: production", "environment: live", &["~ connection \"Main\": environment production -> live"]),
        ("environment: production, ", "", &[]),
        ("environment: production", "environment: ''", &["~ connection \"Main\": environment removed"]),
        (
            "com/echo",
            "com/echo2",
            &["~ server echo: url https://mcp.example.com/echo -> https://mcp.example.com/echo2"],
        ),
        ("default: eu-west-1", "default: x", &["~ server echo: config.REGION changed"]),
        (
            "connection: Main,",
            "connection: Test,",
            &["~ profile echo/default: wiring.KEY \"Main\".api_key -> \"Test\".api_key"],
        ),
        ("active: default", "active: default", &[]),
        (
            "- {instance: echo, connection: Test}",
            "- {instance: echo, connection: Test, step: charge, replaces: Main}",
            &["~ workflow nightly: - override echo -> \"Test\", + override echo, step charge -> \"Test\" for \"Main\""],
        ),
        ("    environment: sandbox\n", "    environment: ''\n", &["~ workflow nightly: environment removed"]),
        ("- name: default\n", "- name: other\n      values: {}\n    - name: default\n", &["+ profile echo/other"]),
    ];
    for (from, to, expected) in table {
        let told = World::with(&shop(&[])).apply(&shop(&[(from, to)]));
        assert_eq!(told.mistakes, [""; 0]);
        let token_again = "+ token \"executor\" (project_viewer, mcp:execute)";
        let changes: Vec<&str> = told.changes.iter().map(String::as_str).filter(|line| *line != token_again).collect();
        assert_eq!(changes, expected, "{from:?} became {to:?}");
    }
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let at = |place: &str, reason: &str| format!("projects[0].{place}: {reason}");
    let table = [
        ("tenant: acme", "tenant: ACME", "tenant: \"ACME\" cannot be a name here: use 1 to 63 lower-case letters, digits and dashes, starting and ending with a letter or digit".to_owned()),
        ("url: https", "url: ftp", at("servers[0].url", "not a server URL: give an http or https URL with a host, and without user, password, query or fragment")),
        ("type: number", "type: number, default: many", at("servers[0].config.RETRIES.default", "the default is not a number")),
        ("generic-api-key, environment: sandbox", "generic-apikey", at("connections[1].template", "there is no template \"generic-apikey\": did you mean \"generic-api-key\"?")),
        ("token: {value", "api_key: {value", at("connections[2].credentials.api_key", "template github asks for token")),
        ("{token: {value: ghp_k3}}", "{}", at("connections[2].credentials.token", "template github requires it (Personal access token)")),
        ("value: ghp_k3", "value: ' '", at("connections[2].credentials.token", "is empty")),
        ("{value: ghp_k3}", "{env: NONE}", at("connections[2].credentials.token", "the environment has no variable NONE")),
        ("name: Token,", "name: Main,", at("connections[2].name", "\"Main\" stands in the manifest twice")),
        ("server: echo", "server: ecko", at("instances[0].server", "there is no MCP server \"ecko\": did you mean \"echo\"?")),
        ("active: default", "active: defualt", at("instances[0].active", "there is no profile \"defualt\": did you mean \"default\"?")),
        ("{REGION: us-east-1}", "{REGIO: x}", at("instances[0].profiles[0].values.REGIO", "the server's config has no key \"REGIO\": did you mean \"REGION\"?")),
        ("{REGION: us-east-1}", "{RETRIES: often}", at("instances[0].profiles[0].values.RETRIES", "the value is not a number")),
        ("{REGION: us-east-1}", "{KEY: k}", at("instances[0].profiles[0].values.KEY", "the key is secret: wire it to a connection instead of writing its value here")),
        ("KEY: {connection: Main", "KEYS: {connection: Main", at("instances[0].profiles[0].wiring.KEYS", "the server's config has no key \"KEYS\": did you mean \"KEY\"?")),
        ("KEY: {connection: Main,", "KEY: {connection: Mian,", at("instances[0].profiles[0].wiring.KEY", "there is no connection \"Mian\": did you mean \"Main\"?")),
        ("credential: api_key", "credential: apikey", at("instances[0].profiles[0].wiring.KEY", "connection \"Main\" has no credential \"apikey\": did you mean \"api_key\"?")),
        ("instance: echo", "instance: eco", at("workflows[0].overrides[0].instance", "there is no instance \"eco\": did you mean \"echo\"?")),
        ("connection: Test", "connection: Main", at("workflows[0].overrides[0].connection", "the workflow is limited to sandbox, and connection \"Main\" is labelled production [ENVIRONMENT_MISMATCH]")),
        ("connection: Test", "connection: Token", at("workflows[0].overrides[0].connection", "connection \"Token\" does not offer api_key, which profile default of echo asks for [OVERRIDE_INCOMPATIBLE]")),
        ("connection: Test", "connection: Test, replaces: Token", at("workflows[0].overrides[0].replaces", "the active profile default of echo does not wire \"Token\"")),
        ("- {instance: echo, connection: Test}", "- {instance: echo, connection: Test}\n    - {instance: echo, connection: Test}", at("workflows[0].overrides[1]", "another override of the list has the same instance, step and replaced connection")),
        ("project_viewer", "tenant_admin", at("tokens[0].role", "a project's token cannot be tenant_admin: make that one with `credway token create`")),
        ("mcp:execute", "mcp:all", at("tokens[0].scopes[0]", "\"mcp:all\" is not a scope: mcp:read, mcp:write, mcp:execute, workflow:read, workflow:run")),
    ];
    for (from, to, expected) in table {
        let told = World::empty().apply(&shop(&[(from, to)]));
        assert!(
            told.mistakes.contains(&expected),
            "{from:?} became {to:?}\nwanted {expected}\ngot {:#?}",
            told.mistakes
        );
        assert!(told.changes.is_empty(), "something was changed in spite of {expected}");
    }
}

#[test]
fn several_mistakes_are_told_together() {
    let manifest =
        shop(&[("template: github", "template: gitub"), ("server: echo", "server: ecko"), ("mcp:execute", "x")]);
    assert_eq!(World::empty().apply(&manifest).mistakes.len(), 3);
}

#[test]
fn what_the_manifest_does_not_mention_is_left_alone() {
    let world = World::with(&shop(&[]));
    let told = world
        .apply("tenant: acme\nprojects: [{project: shop, connections: [{name: Main, template: generic-api-key}]}]");
    assert!(told.changes.is_empty() && told.mistakes.is_empty(), "{told:?}");
    let told = world.apply(&format!(
        "tenant: acme\nprojects: [{{project: shop, connections: [{}]}}]",
        "{name: Main, template: generic-api-key, credentials: {account: {value: a}, api_key: {value: k1}}}"
    ));
    assert_eq!(told.changes, ["~ connection \"Main\": credentials: account added"]);
    assert_eq!(world.secret("Main", "api_key"), "k1");
}

#[test]
fn new_credentials_heal_a_connection_but_do_not_turn_it_on() {
    for (state, expected) in [
        (ConnectionState::Reconnect, "~ connection \"Main\": status reconnect -> active, credentials: api_key changed"),
        (ConnectionState::Disabled, "~ connection \"Main\": credentials: api_key changed"),
    ] {
        let world = World::with(&shop(&[]));
        let set = |connection: &mut crate::model::connection::Connection| connection.status.state = state;
        world.current.borrow_mut().state.connections.iter_mut().for_each(set);
        let told = world.apply(&shop(&[("value: k1", "value: k5")]));
        assert!(told.changes.contains(&expected.to_owned()), "{told:?}");
    }
}

#[test]
fn a_row_follows_a_secret_that_a_broken_run_wrote_already() {
    let world = World::with(&shop(&[]));
    for connection in &mut world.current.borrow_mut().state.connections {
        connection.fields.clear();
    }
    let told = world.apply(&shop(&[]));
    let line = "~ connection \"Main\": credentials: their names as they are in the secret store";
    assert!(told.changes.contains(&line.to_owned()), "{told:?}");
}

const DATABASE: &str = "
tenant: acme
projects:
- project: shop
  connections:
  - name: Reporting
    template: mysql
    credentials:
      host: {value: db-1}
      database: {value: d}
      user: {value: u}
      password: {prompt: The password}
";

#[test]
fn a_prompt_is_asked_once_and_never_in_a_dry_run() {
    let world = World::empty();
    let told = world.dry_run(DATABASE);
    assert_eq!(told.mistakes, [""; 0]);
    assert!(world.room.asked.lock().unwrap().is_empty());
    world.apply(DATABASE);
    assert!(world.apply(DATABASE).changes.is_empty());
    assert_eq!(*world.room.asked.lock().unwrap(), ["The password"]);
    assert_eq!(
        (world.secret("Reporting", "password"), world.secret("Reporting", "port")),
        ("answer".into(), "3306".into())
    );
}

#[test]
fn whoever_changes_the_host_gives_the_secrets_again() {
    let world = World::with(DATABASE);
    let moved = DATABASE.replace("db-1", "db-2");
    let told = world.dry_run(&moved);
    let expected = "~ connection \"Reporting\": credentials: host, password (will be asked for) changed";
    assert_eq!(told.changes, [expected]);
    let told = world.apply(&moved.replace("      password: {prompt: The password}\n", ""));
    let place = "projects[0].connections[0].credentials.password";
    assert_eq!(told.mistakes, [format!("{place}: must be given again, because the manifest changes where it is sent")]);
    world.apply(&moved);
    assert_eq!(world.room.asked.lock().unwrap().len(), 2);
}

#[test]
fn warnings_tell_what_works_and_is_doubtful() {
    let manifest = shop(&[
        ("value: ghp_k3", "value: ' ghp_k3\\n'"),
        ("{value: k1}", "{env: MAIN_KEY}"),
        ("        KEY: {connection: Main, credential: api_key}\n", "        {}\n"),
    ]);
    let mut world = World::empty();
    world.room.variables.insert("MAIN_KEY", "k1");
    let told = world.apply(&manifest);
    insta::assert_snapshot!(told.warnings.join("\n"), @r"
    projects[0].connections[1].credentials.api_key: the secret stands in the manifest itself: better give it by env, file or prompt
    projects[0].connections[2].credentials.token: the secret stands in the manifest itself: better give it by env, file or prompt
    projects[0].instances[0]: the active profile default gives nothing for KEY
    projects[0].connections[2].credentials.token: white space around the value was cut off
    ");
}

/// A manifest is applied again and again; its tokens were true once.
#[test]
fn tokens_that_were_renewed_since_are_not_put_back() {
    let manifest = |access: &str, client: &str| {
        format!(
            "tenant: acme\nprojects:\n- project: shop\n  connections:\n  - name: Mail\n    template: generic-oauth2\n    credentials:\n      \
             authorize_url: {{value: https://id.example.com/authorize}}\n      token_url: {{value: {client}}}\n      \
             access_token: {{value: {access}}}\n      refresh_token: {{value: rt1}}\n"
        )
    };
    let here = "https://id.example.com/token";
    let world = World::with(&manifest("at1", here));
    for document in world.secrets.borrow_mut().values_mut() {
        let template = Catalogue::built_in().get("generic-oauth2").unwrap().clone();
        token_fields::saved_by_hand(&template, None, &mut document.fields, Timestamp::UNIX_EPOCH);
        let renewed = [("access_token", "at2"), ("refresh_token", "rt2")];
        document.fields.extend(renewed.map(|(name, value)| (name.to_owned(), SecretString::from(value))));
    }
    let told = world.apply(&manifest("at1", here));
    assert!(told.changes.is_empty() && told.mistakes.is_empty(), "{told:?}");
    assert_eq!(world.secret("Mail", "refresh_token"), "rt2");
    // Where they would be sent elsewhere, only who has them may do so, and those that he has are sent.
    let told = world.apply(&manifest("at1", "https://elsewhere.example.com/token"));
    assert!(told.mistakes.is_empty(), "{told:?}");
    assert_eq!(
        (world.secret("Mail", "access_token"), world.secret("Mail", "refresh_token")),
        ("at1".into(), "rt1".into())
    );
    world.apply(&manifest("at9", "https://elsewhere.example.com/token"));
    assert_eq!(world.secret("Mail", "access_token"), "at9");
}
