//! Connections and tokens, one operation at a time, on a real database.

use std::sync::Arc;
use std::time::Duration;

use credway::clock::Clock;
use credway::control::{
    ConnectionPatch, ConnectionSpec, Control, ControlError, Reach, RotationSpec, TokenSpec, Workspace,
};
use credway::limits;
use credway::model::caller::{Role, Scope};
use credway::model::connection::{ConnectionState, Status};
use credway::model::id::TokenId;
use credway::model::oauth::{TOKEN_STATE_FIELD, TokenState};
use credway::model::secret::{SecretFields, SecretString};
use credway::model::token::TokenText;
use credway::store::{DueUntil, Store, StoreError, TokenRecord, WorkflowRecord};
use credway::templates::Catalogue;
use futures_util::FutureExt;

use crate::store::{Fresh, a_profile, a_server, an_instance, on_both};
use crate::support::cast::manual_clock;
use crate::support::shelf::{Accident, Shelf};

fn control(store: &Store, shelf: &Arc<Shelf>) -> Control {
    Control::new(store.clone(), Arc::clone(shelf) as _, Catalogue::built_in(), Clock::System)
}

async fn workspace(control: &Control) -> Workspace {
    control.workspace_ensure(&"acme".parse().unwrap(), &"main".parse().unwrap()).await.unwrap()
}

fn fields(pairs: &[(&str, &str)]) -> SecretFields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
}

fn spec(name: &str, template: &str, credentials: &[(&str, &str)]) -> ConnectionSpec {
    ConnectionSpec {
        name: name.into(),
        template: template.into(),
        provider: None,
        service: None,
        account_label: None,
        environment: Some("production".into()),
        services: None,
        lease_path: None,
        credentials: fields(credentials),
    }
}

async fn a_workspace_is_made_once(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let (first, second) = (workspace(&control).await, workspace(&control).await);
    assert_eq!((first.tenant.id, first.project.id), (second.tenant.id, second.project.id));
    let missing = control.workspace_find(&"acme".parse().unwrap(), &"other".parse().unwrap()).await.unwrap_err();
    assert_eq!(missing.to_string(), "there is no project other of tenant acme");
}

async fn a_connection_lives_from_creation_to_deletion(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    let saved =
        control.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t-1\n")]), None).await.unwrap();
    assert_eq!((saved.trimmed, shelf.values("token")), (vec!["token".to_owned()], vec!["ghp_t-1".to_owned()]));

    let listed = control.connection_list(&workspace).await.unwrap();
    assert_eq!((listed.len(), listed[0].version), (1, saved.connection.version));
    let off = control.connection_disable(&workspace, "Hub").await.unwrap();
    let saved =
        control.connection_update_credentials(&workspace, "Hub", fields(&[("token", "ghp_t-2")])).await.unwrap();
    assert_eq!(
        (off.status.state, saved.connection.status.state),
        (ConnectionState::Disabled, ConnectionState::Disabled)
    );
    control.connection_enable(&workspace, &off.id.to_string()).await.unwrap();
    let held = control.connection_get(&workspace, "Hub").await.unwrap();
    assert_eq!((held.status.state, held.version), (ConnectionState::Active, 4));
    assert_eq!(shelf.values("token"), ["ghp_t-2"]);

    control.connection_delete(&workspace, "Hub", None, false).await.unwrap();
    assert_eq!(shelf.len(), 1, "it could not be restored");
    let gone = control.connection_get(&workspace, "Hub").await.unwrap_err();
    assert_eq!(gone.to_string(), "there is no connection \"Hub\"");
}

async fn what_does_not_fit_is_refused_and_nothing_is_written(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    let table = [
        (
            spec("", "github", &[("key", "k")]),
            "3 mistakes\n  name: the name is empty\n  key: template github asks for token\n  token: template github requires it (Personal access token)",
        ),
        (spec("A", "gihub", &[]), "there is no template \"gihub\": did you mean \"github\"?"),
    ];
    for (spec, expected) in table {
        assert_eq!(control.connection_create(&workspace, spec, None).await.unwrap_err().to_string(), expected);
    }
    assert_eq!(shelf.len(), 0);
    control.connection_create(&workspace, spec("A", "github", &[("token", "ghp_k")]), None).await.unwrap();
    let taken =
        control.connection_create(&workspace, spec("A", "github", &[("token", "ghp_k")]), None).await.unwrap_err();
    assert_eq!((taken.to_string().as_str(), shelf.len()), ("connection \"A\" exists already", 1));
    let asked = control.connection_get(&workspace, "B-side").await.unwrap_err();
    assert_eq!(asked.to_string(), "there is no connection \"B-side\"");
}

async fn a_new_host_needs_the_password_again(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    let credentials = [("host", "db-1"), ("database", "d"), ("user", "u"), ("password", "p")];
    control.connection_create(&workspace, spec("Db", "mysql", &credentials), None).await.unwrap();
    let moved = fields(&[("host", "db-2")]);
    let refused = control.connection_update_credentials(&workspace, "Db", moved).await.unwrap_err();
    let expected = "password: must be given again, because the change decides where it is sent";
    assert_eq!((refused.to_string().as_str(), shelf.values("host")), (expected, vec!["db-1".to_owned()]));
    let same = fields(&[("host", " db-1 ")]);
    control.connection_update_credentials(&workspace, "Db", same).await.unwrap();
    let moved = fields(&[("host", "db-2"), ("password", "p")]);
    control.connection_update_credentials(&workspace, "Db", moved).await.unwrap();
    assert_eq!(shelf.values("host"), ["db-2"]);
}

async fn a_connection_in_use_is_deleted_only_by_force(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    let saved =
        control.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t")]), None).await.unwrap();
    let server = a_server(&workspace.tenant, "https://mcp.example.com/hub");
    let profile = a_profile("default", &[("api_key", &saved.connection, "token")]);
    let instance = an_instance("hub", &server, None);
    let workflow = WorkflowRecord {
        workflow: "nightly".into(),
        environment: None,
        overrides: vec![credway::model::overrides::Override {
            instance: instance.id,
            step: None,
            replaces: None,
            connection: saved.connection.id,
        }],
    };
    let mut tx = fresh.store.begin().await.unwrap();
    tx.server_put(workspace.tenant.id, &server).await.unwrap();
    tx.instance_insert(&workspace.project, &instance).await.unwrap();
    tx.profile_insert(&workspace.project, instance.id, &profile).await.unwrap();
    tx.workflow_put(&workspace.project, &workflow).await.unwrap();
    tx.commit().await.unwrap();
    let refused = control.connection_delete(&workspace, "Hub", None, false).await.unwrap_err();
    let expected = "connection \"Hub\" is still used by profile hub/default, workflow nightly";
    assert_eq!((refused.to_string().as_str(), shelf.len()), (expected, 1));
    control.connection_delete(&workspace, "Hub", None, true).await.unwrap();
    assert!(control.connection_get(&workspace, "Hub").await.is_err());
}

async fn a_destruction_that_fails_in_between_is_completed_by_the_next(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let later = manual_clock();
    later.advance(limits::CONNECTION_RESTORABLE);
    let control = |store: &Store| {
        Control::new(store.clone(), Arc::clone(&shelf) as _, Catalogue::built_in(), Clock::Manual(later.clone()))
    };
    let first = control(&fresh.store);
    let workspace = workspace(&first).await;
    first.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t")]), None).await.unwrap();
    let deleted = first.connection_delete(&workspace, "Hub", None, false).await.unwrap().id.to_string();
    later.advance(Duration::from_secs(60));
    shelf.meet(Accident::Outage);
    first.lifecycle_round().await.unwrap();
    assert_eq!(shelf.len(), 1);

    shelf.meet(Accident::DatabaseGone(fresh.store.clone()));
    first.lifecycle_round().await.unwrap();
    assert_eq!(shelf.len(), 0);
    shelf.recover();
    let store = fresh.reopened().await;
    let (again, now) = (control(&store), Clock::Manual(later.clone()).now());
    let until = DueUntil { rotations: now, deleted: now, sign_ins: now, pending: now };
    let due = async || store.lifecycle_due(&until).await.unwrap().len();
    assert_eq!(due().await, 1);
    again.lifecycle_round().await.unwrap();
    assert_eq!(due().await, 0);
    assert!(again.connection_restore(&workspace, &deleted).await.is_err());
}

async fn a_secret_without_a_row_is_never_named(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let first = control(&fresh.store, &shelf);
    let workspace = workspace(&first).await;
    shelf.meet(Accident::DatabaseGone(fresh.store.clone()));
    let error =
        first.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t")]), None).await.unwrap_err();
    assert!(matches!(error, ControlError::Database(_)), "{error}");
    shelf.recover();
    let again = control(&fresh.reopened().await, &shelf);
    assert!(again.connection_list(&workspace).await.unwrap().is_empty());
    again.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t")]), None).await.unwrap();
}

async fn what_was_turned_off_comes_back_as_it_was(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let workspace = workspace(&control).await;
    let saved =
        control.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t")]), None).await.unwrap();
    for (former, _) in ConnectionState::ALL.into_iter().filter(|(state, _)| *state != ConnectionState::Disabled) {
        let status = Status { state: former, reason: None, since: saved.connection.status.since };
        let mut tx = fresh.store.begin().await.unwrap();
        assert!(tx.connection_set_status(&workspace.project, saved.connection.id, &status).await.unwrap());
        tx.commit().await.unwrap();
        for _ in 0..2 {
            let off = control.connection_disable(&workspace, "Hub").await.unwrap();
            assert_eq!(off.status.state, ConnectionState::Disabled, "{former}");
        }
        let on = control.connection_enable(&workspace, "Hub").await.unwrap();
        assert_eq!((on.status.state, on.status.reason), (former, None));
    }
    let held = control.connection_disable(&workspace, "Hub").await.unwrap();
    assert_eq!(held.status.reason.as_deref(), Some("reconnect"));
    control.connection_update_credentials(&workspace, "Hub", fields(&[("token", "ghp_t-2")])).await.unwrap();
    let on = control.connection_enable(&workspace, "Hub").await.unwrap();
    assert_eq!(on.status.state, ConnectionState::Active, "new credentials heal it while it is off");
}

async fn tokens_that_are_saved_by_hand_are_kept_fresh(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    let states = || -> Vec<TokenState> {
        shelf.values(TOKEN_STATE_FIELD).iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    };
    let access = [("access_token", "at-1")];
    control.connection_create(&workspace, spec("Ms", "microsoft", &access), None).await.unwrap();
    assert_eq!(states(), [], "there is nothing to renew it with");
    let both = fields(&[("access_token", "at-2"), ("refresh_token", "rt-2")]);
    let patched = control.connection_update_credentials(&workspace, "Ms", both).await.unwrap();
    let first = &states()[0];
    assert!(first.is_of_unknown_age() && first.generation == 2, "{first:?}");
    assert!(!patched.connection.fields.contains(TOKEN_STATE_FIELD));
    let again = fields(&[("access_token", "at-3")]);
    control.connection_update_credentials(&workspace, "Ms", again).await.unwrap();
    assert_eq!(states()[0].generation, 3);
    let alone = [("client_id", "c"), ("client_secret", "s"), ("refresh_token", "rt")];
    let saved = control.connection_create(&workspace, spec("Ask", "reddit", &alone), None).await.unwrap();
    assert!(states().iter().any(|state| state.generation == 1), "{:?}", states());
    assert!(!saved.connection.fields.contains(TOKEN_STATE_FIELD));
}

async fn a_token_is_found_by_its_text_until_it_is_revoked(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let workspace = workspace(&control).await;
    let spec = TokenSpec {
        project: Some(workspace.project.id),
        name: "ci".into(),
        role: Role::Contributor,
        scopes: [Scope::McpExecute].into_iter().collect(),
        expires_at: None,
    };
    let (record, text) = control.token_create(&workspace.tenant, spec.clone(), None).await.unwrap();
    let found = fresh.store.tokens_find(text.shown_prefix()).await.unwrap();
    assert!(found.iter().any(|held| held.id == record.id && text.matches(&held.hash)));
    let (second, _) = control.token_create(&workspace.tenant, spec.clone(), None).await.unwrap();
    assert!(matches!(control.token_revoke(&workspace, Reach::Tenant, "ci").await, Err(ControlError::Ambiguous { .. })));
    control.token_revoke(&workspace, Reach::Tenant, &record.shown_prefix).await.unwrap();
    let last = control.token_revoke(&workspace, Reach::Tenant, "ci").await.unwrap();
    assert_eq!(last.id, second.id);
    assert!(control.token_list(&workspace).await.unwrap().iter().all(|held| held.revoked_at.is_some()));
    let gone = control.token_revoke(&workspace, Reach::Tenant, "ci").await.unwrap_err();
    assert_eq!(gone.to_string(), "there is no live token \"ci\"");

    // Nobody shields a token by calling another one as it is called.
    let (shown, _) = control.token_create(&workspace.tenant, spec.clone(), None).await.unwrap();
    for name in [shown.id.to_string(), shown.shown_prefix.clone()] {
        let named = TokenSpec { name: name.clone(), ..spec.clone() };
        let refused = control.token_create(&workspace.tenant, named, None).await.unwrap_err();
        assert_eq!(refused.to_string(), "name: the name has the form of a token's id or prefix");
        let (id, shown_prefix) = (TokenId::generate(), "pat_00000000".to_owned());
        let held = TokenRecord {
            id,
            shown_prefix,
            name: name.clone(),
            hash: TokenText::generate().unwrap().hash(),
            ..shown.clone()
        };
        let mut tx = fresh.store.begin().await.unwrap();
        tx.token_insert(&held).await.unwrap();
        tx.commit().await.unwrap();
    }
    let revoked = control.token_revoke(&workspace, Reach::Project, &shown.id.to_string()).await.unwrap();
    assert_eq!(revoked.id, shown.id);

    let amiss = TokenSpec {
        role: Role::TenantAdmin,
        name: String::new(),
        expires_at: Some(jiff::Timestamp::UNIX_EPOCH),
        ..spec
    };
    let refused = control.token_create(&workspace.tenant, amiss, None).await.unwrap_err();
    assert_eq!(refused.to_string().lines().count(), 4, "{refused}");
}

/// Somebody turns the connection off, just before its next secret is written.
fn turned_off_meanwhile(shelf: &Shelf, control: &Control, workspace: &Workspace) {
    let (control, workspace) = (control.clone(), workspace.clone());
    let meanwhile = async move { drop(control.connection_disable(&workspace, "Hub").await.unwrap()) };
    shelf.meet(Accident::Meanwhile(meanwhile.boxed()));
}

async fn a_credential_whose_change_is_refused_is_not_in_use(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    let named = async |name: &str, token: &str| {
        control.connection_create(&workspace, spec(name, "github", &[("token", token)]), None).await.unwrap()
    };
    let made = named("Hub", "ghp_t-1").await.connection;
    named("Other", "ghp_other").await;
    let change = |name: Option<&str>| ConnectionPatch {
        name: name.map(str::to_owned),
        credentials: fields(&[("token", "ghp_t-2")]),
        ..ConnectionPatch::default()
    };
    let known = async || fresh.store.fields_of(made.id).await.unwrap();
    let before = known().await;
    turned_off_meanwhile(&shelf, &control, &workspace);
    let refused = control.connection_patch(&workspace, "Hub", None, change(None)).await.unwrap_err();
    assert!(matches!(refused, ControlError::ChangedMeanwhile { .. }), "{refused}");
    control.connection_enable(&workspace, "Hub").await.unwrap();
    turned_off_meanwhile(&shelf, &control, &workspace);
    let refused = control.connection_patch(&workspace, "Hub", Some(3), change(None)).await.unwrap_err();
    assert!(matches!(refused, ControlError::OtherVersion { version: 4, .. }), "{refused}");
    let taken = control.connection_patch(&workspace, "Hub", None, change(Some("Other"))).await.unwrap_err();
    assert!(matches!(taken, ControlError::Taken { .. }), "{taken}");
    assert_eq!(shelf.values("token"), ["ghp_other", "ghp_t-1"]);
    assert_eq!(known().await, before);
}

fn rotation(token: &str) -> RotationSpec {
    RotationSpec { credentials: fields(&[("token", token)]), keep_old_for: None }
}

async fn an_abort_that_is_refused_leaves_the_new_credential_in_use(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    control.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t-1")]), None).await.unwrap();
    control.connection_rotate(&workspace, "Hub", None, rotation("ghp_t-2"), None).await.unwrap();
    turned_off_meanwhile(&shelf, &control, &workspace);
    let refused = control.connection_rotate_abort(&workspace, "Hub", Some(2)).await.unwrap_err();
    assert!(matches!(refused, ControlError::OtherVersion { version: 3, .. }), "{refused}");
    assert_eq!(shelf.values("token"), ["ghp_t-2"]);
    control.connection_rotate_abort(&workspace, "Hub", Some(3)).await.unwrap();
    assert_eq!(shelf.values("token"), ["ghp_t-1"]);
}

async fn a_rotation_is_not_ended_by_who_meant_the_one_before(fresh: Fresh) {
    let shelf = Arc::new(Shelf::default());
    let control = control(&fresh.store, &shelf);
    let workspace = workspace(&control).await;
    control.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t-1")]), None).await.unwrap();
    control.connection_rotate(&workspace, "Hub", None, rotation("ghp_t-2"), None).await.unwrap();
    // Aborted and begun anew while somebody finishes what they saw.
    let (other, of) = (control.clone(), workspace.clone());
    let meanwhile = async move {
        other.connection_rotate_abort(&of, "Hub", None).await.unwrap();
        other.connection_rotate(&of, "Hub", None, rotation("ghp_t-3"), None).await.unwrap();
    };
    shelf.meet(Accident::Meanwhile(meanwhile.boxed()));
    let refused = control.connection_rotate_finish(&workspace, "Hub", None).await.unwrap_err();
    assert!(matches!(refused, ControlError::NotRotating { .. }), "{refused}");
    control.connection_rotate_abort(&workspace, "Hub", None).await.unwrap();
    assert_eq!(shelf.values("token"), ["ghp_t-1"]);
    // And nothing is destroyed for who names a version that is not the present one.
    control.connection_rotate(&workspace, "Hub", None, rotation("ghp_t-4"), None).await.unwrap();
    let now = control.connection_get(&workspace, "Hub").await.unwrap().version;
    let refused = control.connection_rotate_finish(&workspace, "Hub", Some(now - 1)).await.unwrap_err();
    assert!(matches!(refused, ControlError::OtherVersion { .. }), "{refused}");
    control.connection_rotate_abort(&workspace, "Hub", Some(now)).await.unwrap();
    assert_eq!(shelf.values("token"), ["ghp_t-1"]);
}

async fn a_connection_is_deleted_only_as_it_was_seen(fresh: Fresh) {
    let control = control(&fresh.store, &Arc::default());
    let workspace = workspace(&control).await;
    let made = control.connection_create(&workspace, spec("Hub", "github", &[("token", "ghp_t")]), None).await.unwrap();
    let id = made.connection.id;
    let server = a_server(&workspace.tenant, "https://mcp.example.com/hub");
    let (instance, profile) =
        (an_instance("hub", &server, None), a_profile("default", &[("api_key", &made.connection, "token")]));
    let deleted = async |version: Option<u64>, is_to_be_unused: bool| {
        let mut tx = fresh.store.begin().await.unwrap();
        tx.connection_delete_if(&workspace.project, id, version, is_to_be_unused, std::convert::identity).await?;
        tx.commit().await
    };
    control.connection_disable(&workspace, "Hub").await.unwrap();
    assert!(matches!(deleted(Some(1), true).await, Err(StoreError::Conflict { .. })));
    let mut tx = fresh.store.begin().await.unwrap();
    tx.server_put(workspace.tenant.id, &server).await.unwrap();
    tx.instance_insert(&workspace.project, &instance).await.unwrap();
    tx.profile_insert(&workspace.project, instance.id, &profile).await.unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(deleted(Some(2), true).await, Err(StoreError::Conflict { .. })));
    deleted(Some(2), false).await.unwrap();
    assert!(matches!(deleted(None, false).await, Err(StoreError::Conflict { .. })));
}

on_both!(
    a_credential_whose_change_is_refused_is_not_in_use,
    an_abort_that_is_refused_leaves_the_new_credential_in_use,
    a_rotation_is_not_ended_by_who_meant_the_one_before,
    a_connection_is_deleted_only_as_it_was_seen,
    a_workspace_is_made_once,
    a_connection_lives_from_creation_to_deletion,
    what_does_not_fit_is_refused_and_nothing_is_written,
    a_new_host_needs_the_password_again,
    a_connection_in_use_is_deleted_only_by_force,
    a_secret_without_a_row_is_never_named,
    a_destruction_that_fails_in_between_is_completed_by_the_next,
    what_was_turned_off_comes_back_as_it_was,
    tokens_that_are_saved_by_hand_are_kept_fresh,
    a_token_is_found_by_its_text_until_it_is_revoked,
);
