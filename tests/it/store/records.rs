//! What is written reads back, and what cannot be written is refused.

use std::collections::BTreeSet;

use credway::model::caller::{Role, Scope};
use credway::model::connection::{AccountServices, ConnectionState, Status};
use credway::model::id::{ConnectionId, ProfileId, ProjectId, ServerId, TokenId};
use credway::model::overrides::Override;
use credway::model::run_token::KeyId;
use credway::store::{ConnectionsPage, Entity, RunTokenKey, StoreError, TokenRecord, WorkflowRecord};

use super::{Cast, Fresh, a_connection, a_profile, a_project, a_server, a_tenant, an_instance, at, change, on_both};

on_both! {
    tenants_and_projects_read_back,
    connections_read_back_and_count_their_versions,
    connections_are_found_by_their_state_and_by_what_they_contain,
    a_status_change_counts_the_version_up,
    a_deleted_connection_is_gone_once,
    servers_are_replaced_by_id_but_never_across_tenants,
    profiles_read_back_and_count_their_versions,
    only_a_profile_of_the_instance_becomes_active,
    workflows_are_replaced_as_a_whole,
    tokens_read_back_and_are_revoked_once,
    keys_of_run_tokens_read_back_until_they_end,
    run_tokens_stay_revoked,
    names_are_unique_where_they_must_be,
    nothing_is_written_into_another_project,
    a_failed_step_is_never_committed,
    the_store_checks_and_debugs_without_secrets,
}

async fn tenants_and_projects_read_back(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let found = fresh.store.tenant_find(&cast.tenant.slug).await.unwrap().unwrap();
    assert_eq!((found.id, found.name), (cast.tenant.id, cast.tenant.name.clone()));
    assert!(fresh.store.tenant_find(&"nobody".parse().unwrap()).await.unwrap().is_none());

    let found = fresh.store.project_find(cast.tenant.id, &cast.project.slug).await.unwrap().unwrap();
    assert_eq!((found.id, found.tenant, found.name), (cast.project.id, cast.tenant.id, cast.project.name.clone()));
    let other = Cast::enter(&fresh.store, "other").await;
    assert_ne!(
        fresh.store.project_find(other.tenant.id, &cast.project.slug).await.unwrap().unwrap().id,
        cast.project.id
    );
    let gone = fresh.store.project_state(ProjectId::generate()).await;
    assert!(matches!(gone, Err(StoreError::Conflict { .. })), "{gone:?}");
}

async fn connections_read_back_and_count_their_versions(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let mut connection = a_connection("Google");
    connection.services = Some(AccountServices {
        enabled: BTreeSet::from(["gmail".to_owned()]),
        scopes_granted: BTreeSet::from(["https://mail".to_owned(), "openid".to_owned()]),
    });
    connection.version = 77;
    change(&fresh.store, async |tx| tx.connection_insert(&cast.project, &connection).await.unwrap()).await;

    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    let found = state.connections.iter().find(|found| found.id == connection.id).unwrap();
    connection.version = 1;
    assert_eq!(format!("{found:?}"), format!("{connection:?}"));

    connection.name = "Google Workspace".into();
    connection.account_label = None;
    change(&fresh.store, async |tx| tx.connection_update(&cast.project, &connection).await.unwrap()).await;
    let mut tx = fresh.store.begin().await.unwrap();
    let stale = tx.connection_update(&cast.project, &connection).await;
    assert_eq!(stale.unwrap_err().to_string(), "connection \"Google Workspace\" was changed meanwhile");
    drop(tx);

    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    let found = state.connections.iter().find(|found| found.id == connection.id).unwrap();
    connection.version = 2;
    assert_eq!(format!("{found:?}"), format!("{connection:?}"));
}

async fn connections_are_found_by_their_state_and_by_what_they_contain(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let stranger = Cast::enter(&fresh.store, "other").await;
    let (mut straße, mut shop, mut off) =
        (a_connection("Große Straße"), a_connection("Shop 100%"), a_connection("Old"));
    shop.provider = "Stripe".into();
    off.template = "generic-api-key".into();
    off.status.state = ConnectionState::Disabled;
    change(&fresh.store, async |tx| {
        for connection in [&straße, &shop, &off] {
            tx.connection_insert(&cast.project, connection).await.unwrap();
        }
        straße.name = "Über uns".into();
        tx.connection_update(&cast.project, &straße).await.unwrap();
    })
    .await;
    let (active, disabled) = (Some(ConnectionState::Active), Some(ConnectionState::Disabled));
    let table: [(Option<&str>, Option<ConnectionState>, &[&str]); 12] = [
        (None, None, &["Production", "Über uns", "Shop 100%", "Old"]),
        (None, active, &["Production", "Über uns", "Shop 100%"]),
        (None, disabled, &["Old"]),
        (Some("ÜBER"), None, &["Über uns"]),
        (Some("straße"), None, &[]),
        (Some("stripe"), None, &["Shop 100%"]),
        (Some("api-KEY"), None, &["Old"]),
        (Some("api-key"), active, &[]),
        (Some("o"), disabled, &["Old"]),
        // What means something in a pattern means itself.
        (Some("0%"), None, &["Shop 100%"]),
        (Some("_"), None, &[]),
        (Some("100%\nstripe"), None, &["Shop 100%"]),
    ];
    for (containing, state, expected) in table {
        let page = ConnectionsPage { after: None, containing: containing.map(str::to_owned), state, limit: 9 };
        let found = fresh.store.connections_page(cast.project.id, &page).await.unwrap();
        let names: Vec<&str> = found.iter().map(|connection| connection.name.as_str()).collect();
        assert_eq!(names, expected, "{containing:?} {state:?}");
        let rest = ConnectionsPage { after: Some(off.id), limit: 1, ..page };
        assert_eq!(fresh.store.connections_page(cast.project.id, &rest).await.unwrap().len(), 0);
    }
    let all = ConnectionsPage { containing: Some("o".into()), limit: 9, ..ConnectionsPage::default() };
    assert_eq!(fresh.store.connections_page(stranger.project.id, &all).await.unwrap().len(), 1);
}

async fn a_status_change_counts_the_version_up(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let status = Status {
        state: ConnectionState::Reconnect,
        reason: Some("REVOKED".into()),
        since: at("2026-11-22T11:00:00.000001Z"),
    };
    change(&fresh.store, async |tx| {
        assert!(tx.connection_set_status(&cast.project, cast.connection.id, &status).await.unwrap());
        assert!(!tx.connection_set_status(&cast.project, ConnectionId::generate(), &status).await.unwrap());
    })
    .await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    assert_eq!((&state.connections[0].status, state.connections[0].version), (&status, 2));
    let states = [cast.connection.id, ConnectionId::generate()].map(|id| fresh.store.connection_state(id));
    let [own, unknown] = states.map(|state| async { state.await.unwrap() });
    assert_eq!((own.await, unknown.await), (Some(status.state), None));
}

async fn a_deleted_connection_is_gone_once(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    change(&fresh.store, async |tx| {
        assert!(tx.connection_delete(&cast.project, cast.connection.id).await.unwrap());
        assert!(!tx.connection_delete(&cast.project, cast.connection.id).await.unwrap());
    })
    .await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    assert!(state.connections.is_empty());
    assert_eq!(state.profiles[0].1.source_spec["api_key"].connection, cast.connection.id);
}

async fn servers_are_replaced_by_id_but_never_across_tenants(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    let mut platform = a_server(&cast.tenant, "https://mcp.example.com/platform");
    platform.tenant = None;
    let mut renamed = cast.server.clone();
    renamed.name = "Echo 2".into();
    change(&fresh.store, async |tx| {
        tx.server_put(cast.tenant.id, &platform).await.unwrap();
        tx.server_put(cast.tenant.id, &renamed).await.unwrap();
        let mut stolen = other.server.clone();
        stolen.tenant = Some(cast.tenant.id);
        let refused = tx.server_put(cast.tenant.id, &stolen).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    })
    .await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    let names: Vec<_> = state.servers.iter().map(|server| (server.id, server.name.as_str())).collect();
    assert_eq!(names, [(cast.server.id, "Echo 2"), (platform.id, "Echo")]);
    assert_eq!(format!("{:?}", state.servers[0]), format!("{renamed:?}"));
}

async fn profiles_read_back_and_count_their_versions(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    assert_eq!(format!("{:?}", state.profiles), format!("{:?}", [(cast.instance.id, &cast.profile)]));
    assert_eq!(format!("{:?}", state.instances), format!("{:?}", [&cast.instance]));

    let mut profile = a_profile("renamed", &[("token", &cast.connection, "user")]);
    profile.id = cast.profile.id;
    change(&fresh.store, async |tx| tx.profile_update(&cast.project, &profile).await.unwrap()).await;
    let mut tx = fresh.store.begin().await.unwrap();
    let stale = tx.profile_update(&cast.project, &profile).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    drop(tx);
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    profile.version = 2;
    assert_eq!(format!("{:?}", state.profiles), format!("{:?}", [(cast.instance.id, &profile)]));
}

async fn only_a_profile_of_the_instance_becomes_active(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let second = an_instance("second", &cast.server, None);
    let foreign = a_profile("foreign", &[]);
    change(&fresh.store, async |tx| {
        tx.instance_insert(&cast.project, &second).await.unwrap();
        tx.profile_insert(&cast.project, second.id, &foreign).await.unwrap();
        for profile in [foreign.id, ProfileId::generate()] {
            let refused = tx.instance_set_active(&cast.project, cast.instance.id, Some(profile)).await;
            assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
        }
        tx.instance_set_active(&cast.project, second.id, Some(foreign.id)).await.unwrap();
        tx.instance_set_active(&cast.project, cast.instance.id, None).await.unwrap();
    })
    .await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    let active: Vec<_> = state.instances.iter().map(|instance| instance.active_profile).collect();
    assert_eq!(active, [None, Some(foreign.id)]);
}

async fn workflows_are_replaced_as_a_whole(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let rule = |step: Option<&str>, replaces| Override {
        instance: cast.instance.id,
        step: step.map(str::to_owned),
        replaces,
        connection: ConnectionId::generate(),
    };
    let mut workflow = WorkflowRecord {
        workflow: "nightly".into(),
        environment: Some("sandbox".into()),
        overrides: vec![rule(Some("charge"), None), rule(None, Some(cast.connection.id)), rule(None, None)],
    };
    change(&fresh.store, async |tx| tx.workflow_put(&cast.project, &workflow).await.unwrap()).await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    assert_eq!(state.workflows, [workflow.clone()]);

    workflow.environment = None;
    workflow.overrides.truncate(1);
    change(&fresh.store, async |tx| tx.workflow_put(&cast.project, &workflow).await.unwrap()).await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    assert_eq!(state.workflows, [workflow.clone()]);

    workflow.overrides = vec![rule(None, None), rule(None, None)];
    let mut tx = fresh.store.begin().await.unwrap();
    let twice = tx.workflow_put(&cast.project, &workflow).await;
    assert!(matches!(twice, Err(StoreError::Duplicate { .. })), "{twice:?}");
    drop(tx);

    workflow.overrides.clear();
    change(&fresh.store, async |tx| tx.workflow_put(&cast.project, &workflow).await.unwrap()).await;
    assert!(fresh.store.project_state(cast.project.id).await.unwrap().workflows.is_empty());
}

async fn tokens_read_back_and_are_revoked_once(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let token = TokenRecord {
        id: TokenId::generate(),
        tenant: cast.tenant.id,
        project: Some(cast.project.id),
        instance: Some(cast.instance.id),
        name: "ci".into(),
        shown_prefix: "pat_4f7k92qd".into(),
        hash: [7; 32],
        role: Role::Contributor,
        scopes: [Scope::McpExecute, Scope::WorkflowRun].into_iter().collect(),
        created_at: at("2026-11-22T10:00:00.5Z"),
        expires_at: Some(at("2027-11-22T10:00:00Z")),
        revoked_at: None,
        last_used_at: None,
    };
    let wide = TokenRecord {
        id: TokenId::generate(),
        project: None,
        instance: None,
        name: "wide".into(),
        hash: [8; 32],
        expires_at: None,
        ..token.clone()
    };
    let revoked_at = at("2026-11-23T00:00:00Z");
    change(&fresh.store, async |tx| {
        tx.token_insert(&token).await.unwrap();
        tx.token_insert(&wide).await.unwrap();
    })
    .await;
    let found = fresh.store.tokens_find("pat_4f7k92qd").await.unwrap();
    assert_eq!(format!("{found:?}"), format!("{:?}", [&token, &wide]));
    assert!(fresh.store.tokens_find("pat_4f7k92q").await.unwrap().is_empty());
    assert!(fresh.store.tokens_find("pat\0").await.unwrap().is_empty());

    let stranger = a_tenant("stranger");
    change(&fresh.store, async |tx| {
        assert!(!tx.token_revoke(stranger.id, token.id, revoked_at).await.unwrap());
        assert!(tx.token_revoke(cast.tenant.id, token.id, revoked_at).await.unwrap());
        assert!(!tx.token_revoke(cast.tenant.id, token.id, revoked_at).await.unwrap());
    })
    .await;
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    assert_eq!(state.tokens.iter().map(|token| token.revoked_at).collect::<Vec<_>>(), [Some(revoked_at), None]);
}

async fn keys_of_run_tokens_read_back_until_they_end(fresh: Fresh) {
    let key = |id, expires_at| RunTokenKey { id: KeyId([id; 8]), public: [id; 32], expires_at: at(expires_at) };
    let (ended, lasting) = (key(1, "2020-01-01T00:00:00Z"), key(2, "2100-01-01T00:00:00.123456Z"));
    change(&fresh.store, async |tx| tx.run_token_key_insert(&ended).await.unwrap()).await;
    let keys = async |now| fresh.store.run_token_trust(at(now), at(now)).await.unwrap().keys;
    assert_eq!(keys("2019-01-01T00:00:00Z").await, [ended]);
    assert_eq!(keys("2020-01-01T00:00:00Z").await, []);
    change(&fresh.store, async |tx| tx.run_token_key_insert(&lasting).await.unwrap()).await;
    assert_eq!(keys("2019-01-01T00:00:00Z").await, [lasting], "the next one swept the other out");
    assert!(fresh.store.changes_after(0, 10).await.unwrap().is_empty());
}

async fn run_tokens_stay_revoked(fresh: Fresh) {
    let (cast, other) = (Cast::enter(&fresh.store, "acme").await, Cast::enter(&fresh.store, "other").await);
    let (later, earlier) = (at("2026-11-22T10:00:00.5Z"), at("2026-11-22T09:00:00Z"));
    for time in [later, earlier] {
        change(&fresh.store, async |tx| tx.run_tokens_revoke(&cast.project, time).await.unwrap()).await;
    }
    change(&fresh.store, async |tx| tx.run_tokens_revoke(&other.project, earlier).await.unwrap()).await;
    let revoked = async |after| fresh.store.run_token_trust(after, after).await.unwrap().revoked;
    assert_eq!(revoked(earlier).await, [(cast.project.id, later)]);
    assert_eq!(revoked(later).await, []);
    let log = fresh.store.changes_after(12, 10).await.unwrap();
    let entries: Vec<_> = log.into_iter().map(|line| (line.entity, line.project.unwrap())).collect();
    let of = |project| (Entity::RunTokens, project);
    assert_eq!(entries, [of(cast.project.id), of(cast.project.id), of(other.project.id)]);
}

async fn names_are_unique_where_they_must_be(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let again = a_connection("Production");
    let mut tx = fresh.store.begin().await.unwrap();
    let error = tx.connection_insert(&cast.project, &again).await.unwrap_err();
    assert_eq!(error.to_string(), "connection \"Production\" exists already");
    drop(tx);
    let mut tx = fresh.store.begin().await.unwrap();
    let error = tx.tenant_insert(&a_tenant("acme")).await.unwrap_err();
    assert_eq!(error.to_string(), "tenant \"acme\" exists already");
    drop(tx);
    let mut tx = fresh.store.begin().await.unwrap();
    let error = tx.instance_insert(&cast.project, &an_instance("echo", &cast.server, None)).await.unwrap_err();
    assert_eq!(error.to_string(), "instance \"echo\" exists already");
    drop(tx);
    for owner in [Some(cast.tenant.id), None] {
        let mut server = a_server(&cast.tenant, "https://mcp.example.com/again");
        server.tenant = owner;
        let mut tx = fresh.store.begin().await.unwrap();
        if owner.is_none() {
            tx.server_put(cast.tenant.id, &server).await.unwrap();
            server.id = ServerId::generate();
        }
        let error = tx.server_put(cast.tenant.id, &server).await.unwrap_err();
        assert_eq!(error.to_string(), "server \"echo\" exists already");
    }
}

async fn nothing_is_written_into_another_project(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    let rule = Override { instance: cast.instance.id, step: None, replaces: None, connection: other.connection.id };
    let workflow = WorkflowRecord { workflow: "w".into(), environment: None, overrides: vec![rule] };
    let mut tx = fresh.store.begin().await.unwrap();
    let conflicts = [
        tx.connection_update(&other.project, &cast.connection).await,
        tx.profile_update(&other.project, &cast.profile).await,
        tx.profile_insert(&other.project, cast.instance.id, &a_profile("p", &[])).await,
        tx.instance_set_active(&other.project, cast.instance.id, None).await,
        tx.instance_insert(&other.project, &an_instance("theirs", &cast.server, None)).await,
        tx.workflow_put(&other.project, &workflow).await,
    ];
    for (nth, conflict) in conflicts.into_iter().enumerate() {
        assert!(matches!(conflict, Err(StoreError::Conflict { .. })), "{nth}: {conflict:?}");
    }
    assert!(!tx.connection_delete(&other.project, cast.connection.id).await.unwrap());
}

async fn a_failed_step_is_never_committed(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let mut tx = fresh.store.begin().await.unwrap();
    tx.connection_insert(&cast.project, &a_connection("New")).await.unwrap();
    tx.connection_insert(&cast.project, &a_connection("New")).await.unwrap_err();
    assert!(matches!(tx.commit().await, Err(StoreError::Conflict { .. })));
    let mut tx = fresh.store.begin().await.unwrap();
    tx.connection_insert(&cast.project, &a_connection("New")).await.unwrap();
    let stray = a_project(&a_tenant("never-inserted"), "stray");
    assert!(matches!(tx.project_insert(&stray).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(tx.commit().await, Err(StoreError::Conflict { .. })));
    let state = fresh.store.project_state(cast.project.id).await.unwrap();
    let names: Vec<_> = state.connections.iter().map(|connection| connection.name.as_str()).collect();
    assert_eq!(names, ["Production"]);
    assert!(fresh.store.project_find(stray.tenant, &stray.slug).await.unwrap().is_none());
}

async fn the_store_checks_and_debugs_without_secrets(fresh: Fresh) {
    fresh.store.check().await.unwrap();
    let shown = format!("{:?} {:?}", fresh.store, fresh.store.begin().await.unwrap());
    assert!(!shown.contains("postgres://") && !shown.contains("127.0.0.1"), "{shown}");
    fresh.store.close().await;
}
