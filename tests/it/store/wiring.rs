//! The wiring of one instance, read at once, and who may find it.

use credway::model::id::{ConnectionId, InstanceId, ProjectId};
use credway::model::overrides::Override;
use credway::model::resolution::InstanceRef;
use credway::model::wiring::Wiring;
use credway::store::{ProjectScope, Store, WiringFound, WorkflowRecord};

use super::{Cast, Fresh, a_connection, a_project, a_server, an_instance, change, on_both};

on_both! {
    an_instance_is_found_by_id_name_and_server,
    overrides_of_the_workflow_come_with_their_connections,
    missing_connections_are_absent,
    an_instance_without_an_active_profile_has_none,
    foreign_tenants_and_projects_see_nothing,
    several_instances_of_a_server_are_listed,
    platform_servers_show_only_the_tenants_own_instances,
    one_url_is_each_tenants_own_server,
    texts_that_no_database_can_hold_name_nothing,
}

async fn an_instance_is_found_by_id_name_and_server(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    for scope in scopes(&cast) {
        for reference in references(&cast) {
            let wiring = one(&fresh.store, &scope, &reference, Some("any")).await;
            assert_eq!(wiring.instance.id, cast.instance.id);
            assert_eq!(wiring.instance.name, "echo");
            assert_eq!((wiring.instance.tenant.as_str(), wiring.instance.project.as_str()), ("acme", "main"));
            assert_eq!(wiring.instance.server_url, cast.server.canonical_url);
            assert_eq!(wiring.instance.service, cast.server.service);
            assert_eq!(wiring.instance.config_schema, cast.server.config_schema);
            assert_eq!(wiring.instance.required_scopes, cast.server.required_scopes);
            assert_eq!(format!("{:?}", wiring.profile.unwrap()), format!("{:?}", cast.profile));
            assert_eq!(format!("{:?}", wiring.connections[&cast.connection.id]), format!("{:?}", cast.connection));
            assert_eq!((wiring.overrides.len(), wiring.workflow_environment), (0, None));
        }
    }
}

async fn overrides_of_the_workflow_come_with_their_connections(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let sandbox = a_connection("Sandbox");
    let second = an_instance("second", &cast.server, None);
    let rule = |instance: InstanceId, step: Option<&str>, replaces| Override {
        instance,
        step: step.map(str::to_owned),
        replaces,
        connection: sandbox.id,
    };
    let overrides = vec![
        rule(cast.instance.id, Some("charge"), Some(cast.connection.id)),
        rule(second.id, None, None),
        rule(cast.instance.id, None, None),
    ];
    let workflow =
        WorkflowRecord { workflow: "w".into(), environment: Some("sandbox".into()), overrides: overrides.clone() };
    let unrelated = WorkflowRecord {
        workflow: "other".into(),
        environment: None,
        overrides: vec![rule(cast.instance.id, None, None)],
    };
    change(&fresh.store, async |tx| {
        tx.connection_insert(&cast.project, &sandbox).await.unwrap();
        tx.instance_insert(&cast.project, &second).await.unwrap();
        tx.workflow_put(&cast.project, &workflow).await.unwrap();
        tx.workflow_put(&cast.project, &unrelated).await.unwrap();
    })
    .await;
    let found = one(&fresh.store, &scopes(&cast)[0], &references(&cast)[0], Some("w")).await;
    assert_eq!(found.overrides, [overrides[0].clone(), overrides[2].clone()]);
    assert_eq!(found.workflow_environment.as_deref(), Some("sandbox"));
    assert_eq!(found.connections.keys().copied().collect::<Vec<_>>(), [cast.connection.id, sandbox.id]);
    let found = one(&fresh.store, &scopes(&cast)[0], &references(&cast)[0], None).await;
    assert_eq!((found.overrides.len(), found.connections.len()), (0, 1));
}

async fn missing_connections_are_absent(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    let gone = ConnectionId::generate();
    let rule = |step: Option<&str>, connection| Override {
        instance: cast.instance.id,
        step: step.map(str::to_owned),
        replaces: None,
        connection,
    };
    // One that never was, and one of another tenant, which must look the same.
    let overrides = vec![rule(None, gone), rule(Some("s"), other.connection.id)];
    let workflow = WorkflowRecord { workflow: "w".into(), environment: None, overrides };
    change(&fresh.store, async |tx| {
        tx.connection_delete(&cast.project, cast.connection.id).await.unwrap();
        tx.workflow_put(&cast.project, &workflow).await.unwrap();
    })
    .await;
    let found = one(&fresh.store, &scopes(&cast)[0], &references(&cast)[0], Some("w")).await;
    assert!(found.connections.is_empty(), "{:?}", found.connections);
    assert_eq!(found.overrides.len(), 2);
    assert_eq!(found.profile.unwrap().source_spec["api_key"].connection, cast.connection.id);
}

async fn an_instance_without_an_active_profile_has_none(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    change(&fresh.store, async |tx| {
        tx.instance_set_active(&cast.project, cast.instance.id, None).await.unwrap();
    })
    .await;
    let found = one(&fresh.store, &scopes(&cast)[0], &references(&cast)[0], None).await;
    assert!(found.profile.is_none() && found.connections.is_empty());
}

async fn foreign_tenants_and_projects_see_nothing(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    let sibling = a_project(&cast.tenant, "sibling");
    change(&fresh.store, async |tx| tx.project_insert(&sibling).await.unwrap()).await;
    let scope = |tenant, project: Option<ProjectId>, asked: Option<&str>| ProjectScope {
        tenant,
        project,
        asked: asked.map(str::to_owned),
    };
    let (own, main) = (cast.tenant.id, cast.project.id);
    let blind = [
        scope(other.tenant.id, None, None),
        scope(other.tenant.id, Some(main), None),
        scope(other.tenant.id, None, Some(&main.to_string())),
        scope(other.tenant.id, Some(other.project.id), Some(&main.to_string())),
        scope(own, Some(sibling.id), None),
        scope(own, Some(main), Some("sibling")),
        scope(own, Some(main), Some("")),
        scope(own, None, Some("sibling")),
        scope(own, None, Some(&other.project.id.to_string())),
        scope(own, None, Some("MAIN")),
    ];
    for scope in blind {
        for reference in references(&cast) {
            let found = fresh.store.wiring_find(&scope, &reference, None).await.unwrap();
            // Both tenants have an instance of that name: the other tenant finds its own.
            let is_own = matches!(&found, WiringFound::One(wiring) if wiring.instance.id == other.instance.id);
            assert!(is_own || matches!(found, WiringFound::Nothing), "{scope:?} {reference}: {found:?}");
        }
    }
}

async fn several_instances_of_a_server_are_listed(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let sibling = a_project(&cast.tenant, "sibling");
    let second = an_instance("second", &cast.server, Some(cast.profile.id));
    let same_name = an_instance("echo", &cast.server, None);
    change(&fresh.store, async |tx| {
        tx.project_insert(&sibling).await.unwrap();
        tx.instance_insert(&cast.project, &second).await.unwrap();
        tx.instance_insert(&sibling, &same_name).await.unwrap();
    })
    .await;
    let all = scopes(&cast);
    let of_server = InstanceRef::Server(cast.server.canonical_url.clone());
    let (first, second, same_name) =
        ((cast.instance.id, "echo".to_owned()), (second.id, "second".to_owned()), (same_name.id, "echo".to_owned()));
    let whole_tenant = several(&fresh.store, &all[0], &of_server).await;
    assert_eq!(whole_tenant, [first.clone(), second.clone(), same_name.clone()]);
    for scope in &all[1..] {
        assert_eq!(several(&fresh.store, scope, &of_server).await, [first.clone(), second.clone()]);
    }
    let by_name = InstanceRef::Name("echo".into());
    assert_eq!(several(&fresh.store, &all[0], &by_name).await, [first, same_name]);
    assert_eq!(one(&fresh.store, &all[1], &by_name, None).await.instance.id, cast.instance.id);
}

async fn platform_servers_show_only_the_tenants_own_instances(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    let mut platform = a_server(&cast.tenant, "https://mcp.example.com/gmail");
    platform.tenant = None;
    let (ours, theirs) = (an_instance("gmail", &platform, None), an_instance("gmail", &platform, None));
    change(&fresh.store, async |tx| {
        tx.server_put(cast.tenant.id, &platform).await.unwrap();
        tx.instance_insert(&cast.project, &ours).await.unwrap();
        tx.instance_insert(&other.project, &theirs).await.unwrap();
    })
    .await;
    let reference = InstanceRef::Server(platform.canonical_url.clone());
    for (cast, instance) in [(&cast, &ours), (&other, &theirs)] {
        assert_eq!(one(&fresh.store, &scopes(cast)[0], &reference, None).await.instance.id, instance.id);
    }
}

async fn one_url_is_each_tenants_own_server(fresh: Fresh) {
    let (cast, other) = (Cast::enter(&fresh.store, "acme").await, Cast::enter(&fresh.store, "other").await);
    let mut same_url = other.server.clone();
    same_url.canonical_url = cast.server.canonical_url.clone();
    change(&fresh.store, async |tx| tx.server_put(other.tenant.id, &same_url).await.unwrap()).await;
    let reference = InstanceRef::Server(same_url.canonical_url.clone());
    for cast in [&cast, &other] {
        for scope in scopes(cast) {
            assert_eq!(one(&fresh.store, &scope, &reference, None).await.instance.id, cast.instance.id);
        }
    }
}

async fn texts_that_no_database_can_hold_name_nothing(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let mut scope = scopes(&cast).remove(0);
    let name = InstanceRef::Name("echo\0".into());
    assert!(matches!(fresh.store.wiring_find(&scope, &name, None).await.unwrap(), WiringFound::Nothing));
    assert!(one(&fresh.store, &scope, &references(&cast)[0], Some("w\0")).await.overrides.is_empty());
    scope.asked = Some("main\0".into());
    let found = fresh.store.wiring_find(&scope, &references(&cast)[0], None).await.unwrap();
    assert!(matches!(found, WiringFound::Nothing));
    scope.asked = Some("main".into());
    assert_eq!(one(&fresh.store, &scope, &references(&cast)[0], None).await.instance.id, cast.instance.id);
}

/// The ways in which a caller may see the cast's project: the whole tenant, limited to it, or asking for it.
fn scopes(cast: &Cast) -> Vec<ProjectScope> {
    let (tenant, project) = (cast.tenant.id, cast.project.id);
    let scope = |project, asked: Option<String>| ProjectScope { tenant, project, asked };
    vec![
        scope(None, None),
        scope(Some(project), None),
        scope(None, Some("main".into())),
        scope(None, Some(project.to_string())),
        scope(Some(project), Some("main".into())),
        scope(Some(project), Some(project.to_string())),
    ]
}

fn references(cast: &Cast) -> Vec<InstanceRef> {
    vec![
        InstanceRef::Id(cast.instance.id),
        InstanceRef::Name(cast.instance.name.to_string()),
        InstanceRef::Server(cast.server.canonical_url.clone()),
    ]
}

async fn one(store: &Store, scope: &ProjectScope, reference: &InstanceRef, workflow: Option<&str>) -> Wiring {
    match store.wiring_find(scope, reference, workflow).await.unwrap() {
        WiringFound::One(wiring) => *wiring,
        other => panic!("{scope:?} {reference}: {other:?}"),
    }
}

async fn several(store: &Store, scope: &ProjectScope, reference: &InstanceRef) -> Vec<(InstanceId, String)> {
    match store.wiring_find(scope, reference, None).await.unwrap() {
        WiringFound::Several(found) => found,
        other => panic!("{scope:?} {reference}: {other:?}"),
    }
}
