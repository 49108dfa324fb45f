//! Servers of the platform and of tenants, with their versions.

use credway::model::server::{CanonicalUrl, McpTool};
use credway::store::{ServerRecord, ServersPage, StoreError, Users};
use credway::templates::servers;

use super::{Cast, Fresh, a_server, a_tenant, an_instance, change, on_both};

fn base(url: &str) -> CanonicalUrl {
    url.parse().unwrap()
}

fn tool(name: &str) -> McpTool {
    McpTool { name: name.into(), title: None, description: None, input_schema: None, output_schema: None }
}

async fn the_platforms_servers_are_there_once_however_many_put_them_and_the_log_tells_only_changes(fresh: Fresh) {
    let wanted = servers::platform(&base("https://mcp.example.com"));
    let stores = [fresh.reopened().await, fresh.reopened().await, fresh.reopened().await];
    let [first, second, third] = &stores;
    let (first, second, third) =
        tokio::join!(first.platform_put(&wanted), second.platform_put(&wanted), third.platform_put(&wanted));
    assert_eq!(first.unwrap() + second.unwrap() + third.unwrap(), wanted.len());
    let tenant = a_tenant("acme");
    let found = fresh.store.servers_find(tenant.id).await.unwrap();
    assert_eq!(found.len(), wanted.len());
    assert_eq!(fresh.store.changes_after(0, 1000).await.unwrap().len(), wanted.len());

    let head = fresh.store.change_head().await.unwrap();
    assert_eq!(fresh.store.platform_put(&wanted).await.unwrap(), 0);
    assert_eq!(fresh.store.change_head().await.unwrap(), head, "what did not change was entered");

    let mut changed = wanted.clone();
    changed[3].name = "Another name".into();
    assert_eq!(fresh.store.platform_put(&changed).await.unwrap(), 1);
    let told = fresh.store.changes_after(head, 1000).await.unwrap();
    assert_eq!(told.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), [changed[3].id.to_string()]);
    assert_eq!(fresh.store.platform_put(&servers::platform(&base("https://other.example"))).await.unwrap(), 40);
    let found = fresh.store.server_get(tenant.id, "gmail").await.unwrap().unwrap();
    assert_eq!(found.server.canonical_url.as_str(), "https://other.example/gmail");
    assert_eq!((found.server.tenant, found.version), (None, 2));
}

async fn a_server_of_the_platform_keeps_the_id_that_it_has(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let mut older = a_server(&cast.tenant, "https://mcp.example.com/gmail");
    (older.tenant, older.service) = (None, "gmail".parse().unwrap());
    change(&fresh.store, async |tx| tx.server_put(cast.tenant.id, &older).await.unwrap()).await;
    fresh.store.platform_put(&servers::platform(&base("https://mcp.example.com"))).await.unwrap();
    let found = fresh.store.server_get(cast.tenant.id, "gmail").await.unwrap().unwrap();
    assert_eq!((found.server.id, found.server.name.as_str(), found.version), (older.id, "Gmail", 2));
}

async fn a_tenant_sees_its_own_servers_and_the_platforms_and_of_one_service_its_own_first(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    fresh.store.platform_put(&servers::platform(&base("https://mcp.example.com"))).await.unwrap();
    let mut own = a_server(&cast.tenant, "https://mcp.acme.example/gmail");
    own.service = "gmail".parse().unwrap();
    change(&fresh.store, async |tx| {
        tx.server_insert((cast.tenant.id, cast.project.id), &own, &[tool("send")]).await.unwrap()
    })
    .await;

    let get = async |tenant, asked: &str| fresh.store.server_get(tenant, asked).await.unwrap();
    assert_eq!(get(cast.tenant.id, "gmail").await.unwrap().server.id, own.id);
    assert_eq!(get(other.tenant.id, "gmail").await.unwrap().server.tenant, None);
    assert!(get(other.tenant.id, &own.id.to_string()).await.is_none());
    assert!(get(cast.tenant.id, "nothing\0").await.is_none());

    let all = ServersPage { own: true, platform: true, limit: 100, ..ServersPage::default() };
    let count = async |page: &ServersPage| fresh.store.servers_page(cast.tenant.id, page).await.unwrap().len();
    assert_eq!(count(&all).await, 42);
    assert_eq!(count(&ServersPage { platform: false, ..all.clone() }).await, 2);
    assert_eq!(count(&ServersPage { own: false, ..all.clone() }).await, 40);
    assert_eq!(count(&ServersPage { with_tools: true, ..all.clone() }).await, 1);
    assert_eq!(count(&ServersPage { containing: Some("GOOGLE-".into()), ..all.clone() }).await, 9);
    let pages = fresh.store.servers_page(cast.tenant.id, &ServersPage { limit: 41, ..all.clone() }).await.unwrap();
    let after = pages.last().map(|record| record.server.id);
    assert_eq!(count(&ServersPage { after, ..all }).await, 1);
}

async fn a_server_keeps_what_it_offered_in_its_versions(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let record = fresh.store.server_get(cast.tenant.id, "echo").await.unwrap().unwrap();
    let mut changed = ServerRecord { tools: vec![tool("send")], ..record.clone() };
    change(&fresh.store, async |tx| tx.server_update(cast.tenant.id, &changed).await.unwrap()).await;
    let mut tx = fresh.store.begin().await.unwrap();
    let stale = tx.server_update(cast.tenant.id, &changed).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    drop(tx);
    // A name is not what others rely on.
    (changed.version, changed.server.name) = (2, "Renamed".into());
    change(&fresh.store, async |tx| tx.server_update(cast.tenant.id, &changed).await.unwrap()).await;

    let versions = fresh.store.server_versions(cast.server.id, None, 10).await.unwrap();
    let told: Vec<_> = versions.iter().map(|version| (version.number, version.surface.tools.len())).collect();
    assert_eq!(told, [(2, 1), (1, 0)]);
    assert_eq!(versions[1].surface.config_schema, cast.server.config_schema);
    let found = fresh.store.server_get(cast.tenant.id, &cast.server.id.to_string()).await.unwrap().unwrap();
    assert_eq!((found.version, found.tools), (3, vec![tool("send")]));
}

async fn only_a_server_without_instances_is_deleted_and_with_its_versions(fresh: Fresh) {
    let cast = Cast::enter(&fresh.store, "acme").await;
    let other = Cast::enter(&fresh.store, "other").await;
    let record = fresh.store.server_get(cast.tenant.id, "echo").await.unwrap().unwrap();
    let users = fresh.store.server_users(cast.tenant.id, cast.project.id, cast.server.id).await.unwrap();
    assert_eq!(users, Users { here: vec!["echo".into()], elsewhere: 0 });
    let users = fresh.store.server_users(cast.tenant.id, other.project.id, cast.server.id).await.unwrap();
    assert_eq!(users, Users { here: Vec::new(), elsewhere: 1 });
    for (tenant, why) in [(cast.tenant.id, "it has an instance"), (other.tenant.id, "it is another tenant's")] {
        let mut tx = fresh.store.begin().await.unwrap();
        let refused = tx.server_delete(tenant, &record).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{why}: {refused:?}");
    }
    assert_eq!(fresh.store.server_versions(cast.server.id, None, 10).await.unwrap().len(), 1);

    let unused = a_server(&cast.tenant, "https://mcp.example.com/unused");
    let unused = credway::model::server::McpServer { service: "unused".parse().unwrap(), ..unused };
    change(&fresh.store, async |tx| tx.server_insert((cast.tenant.id, cast.project.id), &unused, &[]).await.unwrap())
        .await;
    let record = fresh.store.server_get(cast.tenant.id, "unused").await.unwrap().unwrap();
    change(&fresh.store, async |tx| tx.server_delete(cast.tenant.id, &record).await.unwrap()).await;
    assert!(fresh.store.server_get(cast.tenant.id, "unused").await.unwrap().is_none());
    assert!(fresh.store.server_versions(unused.id, None, 10).await.unwrap().is_empty());
    let gone = an_instance("late", &unused, None);
    let refused = fresh.store.begin().await.unwrap().instance_insert(&cast.project, &gone).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
}

on_both!(
    the_platforms_servers_are_there_once_however_many_put_them_and_the_log_tells_only_changes,
    a_server_of_the_platform_keeps_the_id_that_it_has,
    a_tenant_sees_its_own_servers_and_the_platforms_and_of_one_service_its_own_first,
    a_server_keeps_what_it_offered_in_its_versions,
    only_a_server_without_instances_is_deleted_and_with_its_versions,
);
