//! `apply` on a real database: what a manifest makes, that it makes it once, and what broken runs leave.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use credway::clock::Clock;
use credway::control::manifest::Manifest;
use credway::control::{Applied, Control, ControlError, DEMO_MANIFEST, Mode, Outside, TokenSpec};
use credway::model::caller::{Role, Scope};
use credway::model::resolution::InstanceRef;
use credway::model::secret::SecretString;
use credway::model::token::TokenText;
use credway::store::{ProjectScope, Store, WiringFound};
use credway::templates::Catalogue;
use jiff::Timestamp;

use crate::store::{Fresh, on_both};
use crate::support::cast::manual_clock;
use crate::support::shelf::{Accident, Shelf};

/// A person's machine: its environment, and the token files that were written.
#[derive(Default)]
pub(crate) struct Machine {
    variables: BTreeMap<&'static str, &'static str>,
    token_files: Mutex<BTreeMap<String, TokenText>>,
    is_read_only: bool,
}

impl Outside for Machine {
    fn variable(&self, name: &str) -> Result<SecretString, String> {
        let value = self.variables.get(name).map(|value| SecretString::from(*value));
        value.ok_or_else(|| format!("the environment has no variable {name}"))
    }

    fn file(&self, _: &Path) -> Result<SecretString, String> {
        Err("cannot be read".into())
    }

    fn ask(&self, _: &str) -> Result<SecretString, String> {
        Err("there is no terminal".into())
    }

    fn keep_token(&self, path: &Path, token: &TokenText) -> Result<(), String> {
        if self.is_read_only {
            return Err("the directory is read-only".into());
        }
        self.token_files.lock().unwrap().insert(path.display().to_string(), token.clone());
        Ok(())
    }
}

fn control(store: &Store, shelf: &Arc<Shelf>) -> Control {
    Control::new(store.clone(), Arc::clone(shelf) as _, Catalogue::built_in(), Clock::System)
}

async fn apply(control: &Control, manifest: &str) -> Result<Applied, ControlError> {
    control.apply(&Manifest::parse(manifest).unwrap(), &Machine::default(), Mode::Carry).await
}

/// The number of the last change of the log: it stands still when nothing is written.
async fn last_change(store: &Store) -> i64 {
    store.changes_after(0, 10_000).await.unwrap().last().map_or(0, |change| change.sequence)
}

const TEAM: &str = "
tenant: acme
projects:
- project: payments
  servers:
  - {service: echo, url: 'https://mcp.example.com/echo', config: {KEY: {required: true, secret: true}, LIMIT: {type: number, default: 3}}}
  connections:
  - {name: Main, template: generic-api-key, credentials: {api_key: {value: payments-key}}}
  instances:
  - {name: echo, server: echo, active: default, profiles: [{name: default, wiring: {KEY: {connection: Main, credential: api_key}}}]}
  tokens:
  - {name: executor, role: project_contributor, scopes: ['mcp:execute'], file: executor.token}
";

async fn the_demo_workspace_is_made_and_a_second_run_writes_nothing(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let first = apply(&control, DEMO_MANIFEST).await.unwrap();
    assert_eq!(first.changes.len(), 10);
    assert_eq!(shelf.values("api_key"), ["demo-charge-key", "demo-production-key", "demo-sandbox-key"]);
    let before = last_change(&fresh.store).await;

    let second = apply(&control, DEMO_MANIFEST).await.unwrap();
    assert!(second.changes.is_empty(), "{:?}", second.changes);
    assert_eq!(last_change(&fresh.store).await, before);

    let workspace = control.workspace_find(&"demo".parse().unwrap(), &"demo".parse().unwrap()).await.unwrap();
    let scope = ProjectScope { tenant: workspace.tenant.id, project: Some(workspace.project.id), asked: None };
    let instance = InstanceRef::Name("demo-echo".into());
    let found = fresh.store.wiring_find(&scope, &instance, Some("demo-sandbox")).await.unwrap();
    let WiringFound::One(wiring) = found else { panic!("{found:?}") };
    assert_eq!(wiring.profile.unwrap().name, "default");
    assert_eq!((wiring.overrides.len(), wiring.workflow_environment.as_deref()), (2, Some("sandbox")));
    let mut names: Vec<&str> = wiring.connections.values().map(|connection| connection.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Demo charge", "Demo production", "Demo sandbox"]);
}

async fn each_kind_of_change_reaches_the_database_and_settles(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    apply(&control, TEAM).await.unwrap();
    let changed = TEAM
        .replace("mcp.example.com/echo", "mcp.example.com/echo2")
        .replace("payments-key", "rotated-key")
        .replace("{name: Main, template: generic-api-key,", "{name: Main, template: generic-api-key, account: acct_1, environment: production, services: {enabled: [echo]},")
        .replace("[{name: default, wiring", "[{name: other, values: {LIMIT: 5}}, {name: default, values: {LIMIT: '4'}, wiring")
        .replace("active: default", "active: other")
        + "  workflows:\n  - {workflow: nightly, environment: production, overrides: [{instance: echo, connection: Main, step: s}]}\n";
    let lines: Vec<String> = apply(&control, &changed).await.unwrap().changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ server echo: url https://mcp.example.com/echo -> https://mcp.example.com/echo2",
            "~ connection \"Main\": environment production added, account acct_1 added, services.enabled echo added, credentials: api_key changed",
            "+ profile echo/other",
            "~ profile echo/default: values.LIMIT 4 added",
            "~ instance echo: active profile default -> other",
            "+ workflow nightly",
        ]
    );
    assert_eq!(shelf.values("api_key"), ["rotated-key"]);
    assert!(apply(&control, &changed).await.unwrap().changes.is_empty());
}

async fn a_token_that_is_exported_ends_elsewhere_when_it_does_here(fresh: Fresh) {
    let clock = manual_clock();
    let at = Clock::Manual(clock.clone());
    let control = Control::new(fresh.store.clone(), Arc::<Shelf>::default(), Catalogue::built_in(), at.clone());
    apply(&control, TEAM).await.unwrap();
    let workspace = control.workspace_find(&"acme".parse().unwrap(), &"payments".parse().unwrap()).await.unwrap();
    let hour = Timestamp::from_second(at.now().as_second() + 3600).unwrap();
    // Tokens may be called alike, and a manifest has one of a name.
    for (name, end) in [("short", at.now() + Duration::from_secs(60)), ("long", hour), ("long", hour)] {
        let spec = TokenSpec {
            project: Some(workspace.project.id),
            name: name.into(),
            role: Role::Viewer,
            scopes: [Scope::McpRead].into_iter().collect(),
            expires_at: Some(end),
        };
        control.token_create(&workspace.tenant, spec, None).await.unwrap();
    }
    clock.advance(Duration::from_secs(60));
    let exported = serde_saphyr::to_string(&control.export(&workspace).await.unwrap()).unwrap();
    assert!(apply(&control, &exported).await.unwrap().changes.is_empty(), "{exported}");
    let elsewhere = exported.replace("project: payments", "project: copy").replace("prompt:", "value:");
    apply(&control, &elsewhere).await.unwrap();
    let copy = control.workspace_find(&"acme".parse().unwrap(), &"copy".parse().unwrap()).await.unwrap();
    let tokens = control.token_list(&copy).await.unwrap();
    let mut ends: Vec<_> = tokens.iter().map(|token| (token.name.as_str(), token.expires_at)).collect();
    ends.sort();
    assert_eq!(ends, [("executor", None), ("long", Some(hour))], "{exported}");
    clock.advance(Duration::from_secs(3600));
    let late = apply(&control, &elsewhere).await.unwrap_err().to_string();
    assert!(late.ends_with("expires_at: lies in the past: leave the token out, or let it end later"), "{late}");
}

async fn services_and_scopes_that_are_not_mentioned_stay(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let with = |services: &str| {
        let main = "{name: Main, template: generic-api-key,";
        TEAM.replace(main, &format!("{main} services: {services},"))
    };
    apply(&control, &with("{enabled: [mail], scopes_granted: [read]}")).await.unwrap();
    let table = [
        ("{enabled: [mail, drive]}", vec!["~ connection \"Main\": services.enabled mail -> drive mail"]),
        ("{scopes_granted: [read, write]}", vec!["~ connection \"Main\": services.scopes_granted read -> read write"]),
        ("{}", vec![]),
        ("{enabled: []}", vec!["~ connection \"Main\": services.enabled drive mail -> none"]),
    ];
    for (services, expected) in table {
        let applied = apply(&control, &with(services)).await.unwrap();
        assert_eq!(applied.changes.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{services}");
    }
}

async fn two_projects_cannot_write_their_tokens_to_one_file(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let project =
        |name: &str| format!("- project: {name}\n  tokens: [{{name: t, role: project_contributor, file: t.token}}]\n");
    let manifest = format!("projects:\n{}{}", project("one"), project("two"));
    let refused = apply(&control, &manifest).await.unwrap_err().to_string();
    let expected = "projects[1].tokens[0].file: the token at projects[0].tokens[0] is written to the same file";
    assert_eq!((refused.as_str(), last_change(&fresh.store).await), (expected, 0));
}

async fn a_dry_run_and_a_manifest_with_mistakes_write_nothing(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let manifest = Manifest::parse(TEAM).unwrap();
    let told = control.apply(&manifest, &Machine::default(), Mode::DryRun).await.unwrap();
    assert_eq!(told.changes.len(), 8);
    let refused = apply(&control, &TEAM.replace("server: echo", "server: ecco")).await.unwrap_err();
    assert!(matches!(&refused, ControlError::Mistakes(mistakes) if mistakes.len() == 1), "{refused}");
    assert_eq!((shelf.len(), last_change(&fresh.store).await), (0, 0));
}

async fn a_token_is_made_once_and_works_from_its_file(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let manifest = Manifest::parse(TEAM).unwrap();
    let read_only = Machine { is_read_only: true, ..Machine::default() };
    let refused = control.apply(&manifest, &read_only, Mode::Carry).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the token \"executor\" cannot be written to executor.token: the directory is read-only"
    );
    assert_eq!(last_change(&fresh.store).await, 0);

    let machine = Machine::default();
    let made = control.apply(&manifest, &machine, Mode::Carry).await.unwrap();
    assert_eq!(made.new_tokens.len(), 1);
    let token = machine.token_files.lock().unwrap().remove("executor.token").unwrap();
    let records = fresh.store.tokens_find(token.shown_prefix()).await.unwrap();
    assert!(records.iter().any(|record| token.matches(&record.hash)));
    assert!(control.apply(&manifest, &machine, Mode::Carry).await.unwrap().new_tokens.is_empty());
    assert!(machine.token_files.lock().unwrap().is_empty());
}

async fn an_outage_of_the_secret_store_leaves_no_row_and_the_next_run_completes(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    shelf.meet(Accident::Outage);
    let error = apply(&control, DEMO_MANIFEST).await.unwrap_err();
    assert!(matches!(error, ControlError::Secrets(_)), "{error}");
    assert_eq!(last_change(&fresh.store).await, 0);
    shelf.recover();
    assert_eq!(apply(&control, DEMO_MANIFEST).await.unwrap().changes.len(), 10);
    assert_eq!(shelf.len(), 3);
}

async fn a_run_that_ends_between_secrets_and_rows_is_completed_by_the_next(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    apply(&control(&fresh.store, &shelf), TEAM).await.unwrap();
    let changed = TEAM.replace("{api_key: {value: payments-key}}", "{api_key: {value: rotated}, extra: {value: x}}");
    shelf.meet(Accident::DatabaseGone(fresh.store.clone()));
    let error = apply(&control(&fresh.store, &shelf), &changed).await.unwrap_err();
    assert!(matches!(error, ControlError::Database(_)), "{error}");
    assert_eq!(shelf.values("api_key"), ["rotated"]);

    shelf.recover();
    let reopened = fresh.reopened().await;
    let control = control(&reopened, &shelf);
    let lines: Vec<String> = apply(&control, &changed).await.unwrap().changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["~ connection \"Main\": credentials: their names as they are in the secret store"]);
    assert!(apply(&control, &changed).await.unwrap().changes.is_empty());
}

async fn two_runs_at_once_end_with_one_whole_workspace(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let (one, other) = (control(&fresh.store, &shelf), control(&fresh.store, &shelf));
    let (first, second) = tokio::join!(apply(&one, DEMO_MANIFEST), apply(&other, DEMO_MANIFEST));
    for outcome in [&first, &second] {
        assert!(matches!(outcome, Ok(_) | Err(ControlError::Taken { .. } | ControlError::ChangedMeanwhile { .. })));
    }
    assert!(first.is_ok() || second.is_ok());
    assert!(apply(&one, DEMO_MANIFEST).await.unwrap().changes.is_empty());
    assert_eq!(shelf.len(), 3, "a secret that no connection names was left behind");
}

async fn a_new_project_sees_the_servers_of_its_tenant(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    apply(&control, TEAM).await.unwrap();
    let second = "tenant: acme\nprojects: [{project: billing, instances: [{name: echo, server: echo}]}]";
    let lines: Vec<String> = apply(&control, second).await.unwrap().changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["+ project billing", "+ instance echo (server echo)"]);
}

async fn several_documents_are_applied_as_one(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let second = "
tenant: acme
projects:
- project: refunds
  instances: [{name: echo, server: echo}]
---
tenant: other
projects:
- project: payments
";
    let both = format!("{TEAM}---{second}");
    let changes = apply(&control, &both).await.unwrap().changes;
    let of = |project: &str| changes.iter().filter(|change| change.project == project).count();
    assert_eq!((of("acme/payments"), of("acme/refunds"), of("other/payments")), (8, 2, 2));
    assert!(apply(&control, &both).await.unwrap().changes.is_empty());

    let twice = apply(&control, &format!("{TEAM}---{TEAM}")).await.unwrap_err().to_string();
    assert_eq!(twice, "documents[1].projects[0]: project payments is declared already at documents[0].projects[0]");
    let amiss = both.replace("server: echo}]", "server: ecco}]");
    let amiss = apply(&control, &amiss).await.unwrap_err().to_string();
    let expected =
        "documents[1].projects[0].instances[0].server: there is no MCP server \"ecco\": did you mean \"echo\"?";
    assert_eq!(amiss, expected);
}

on_both!(
    a_token_that_is_exported_ends_elsewhere_when_it_does_here,
    several_documents_are_applied_as_one,
    the_demo_workspace_is_made_and_a_second_run_writes_nothing,
    each_kind_of_change_reaches_the_database_and_settles,
    services_and_scopes_that_are_not_mentioned_stay,
    two_projects_cannot_write_their_tokens_to_one_file,
    a_dry_run_and_a_manifest_with_mistakes_write_nothing,
    a_token_is_made_once_and_works_from_its_file,
    an_outage_of_the_secret_store_leaves_no_row_and_the_next_run_completes,
    a_run_that_ends_between_secrets_and_rows_is_completed_by_the_next,
    two_runs_at_once_end_with_one_whole_workspace,
    a_new_project_sees_the_servers_of_its_tenant,
);
