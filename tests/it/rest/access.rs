//! Every operation of the description tried by nobody, a stranger, another tenant, another project, and each role.

use credway::model::caller::{Role, Scope};
use serde_json::{Value, json};

use super::Api;

/// One operation: what it asks of its caller is in its description.
#[derive(Debug)]
struct Operation {
    method: String,
    path: String,
    needs: Option<Need>,
}

/// The least role, and the scope.
#[derive(Clone, Debug)]
struct Need {
    role: Role,
    scope: Scope,
}

/// Operations that only administrators may do, by their paths.
const FOR_ADMINS: [&str; 2] = ["/v1/pats", "/v1/audit"];

fn operations(api: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["token"][0].as_str().map(|word| word.parse().unwrap());
            let is_for_admins = FOR_ADMINS.iter().any(|start| path.starts_with(start));
            let role = match scope {
                _ if is_for_admins => Role::Admin,
                Some(Scope::McpWrite) => Role::Contributor,
                _ => Role::Viewer,
            };
            let needs = scope.map(|scope| Need { role, scope });
            operations.push(Operation { method: method.to_uppercase(), path: path.clone(), needs });
        }
    }
    operations
}

impl Operation {
    /// Its path, about things that are not there.
    fn asked(&self) -> String {
        let mut path = self.path.clone();
        while let Some((before, rest)) = path.split_once('{') {
            let (_, after) = rest.split_once('}').unwrap();
            path = format!("{before}nothing{after}");
        }
        path
    }

    fn body(&self) -> Option<Value> {
        matches!(self.method.as_str(), "POST" | "PUT" | "PATCH").then(|| json!({}))
    }
}

#[tokio::test]
async fn every_operation_is_refused_to_who_may_not_do_it_and_to_nobody_else() {
    let api = Api::embedded().await;
    let scopes: Vec<Scope> = Scope::ALL.iter().map(|(scope, _)| *scope).collect();
    let description = api.send("GET", "/v1/openapi.json", &[], None).await.ok();
    let operations = operations(&description);
    assert!(operations.len() >= 8, "{operations:#?}");
    let mut tried = 0;
    for operation in &operations {
        let Some(need) = &operation.needs else { panic!("{operation:?} says nothing of who may do it") };
        let (path, body) = (operation.asked(), operation.body());
        let nobody = api.send(&operation.method, &path, &[], body.as_ref()).await;
        nobody.problem(401, "UNAUTHENTICATED");
        let stranger = api.ask("pat_00000000000000000000000000000000", &operation.method, &path, body.as_ref()).await;
        stranger.problem(401, "UNAUTHENTICATED");
        for (role, _) in Role::ALL.into_iter().filter(|(role, _)| *role < Role::TenantAdmin) {
            let token = api.token(role).await;
            let answer = api.ask(&token, &operation.method, &path, body.as_ref()).await;
            match role >= need.role {
                true => assert!(![401, 403].contains(&answer.status.as_u16()), "{role} {operation:?}: {answer:?}"),
                false => drop(answer.problem(403, "PERMISSION_DENIED")),
            }
            assert_ne!(api.ask(&token, &operation.method, &path, body.as_ref()).await.status.as_u16(), 500);
            tried += 1;
        }
        // Every scope but the one it takes.
        let others: Vec<Scope> = scopes.iter().copied().filter(|scope| *scope != need.scope).collect();
        let project = Some(api.world.workspace.project.id);
        let token = api.world.token_with(Role::Admin, &others, None, project).await;
        api.ask(&token, &operation.method, &path, body.as_ref()).await.problem(403, "PERMISSION_DENIED");
        // A token of the project, that asks for another one, or for another tenant.
        let token = api.token(Role::Admin).await;
        let bearer = format!("Bearer {token}");
        for header in ["x-project-id", "x-tenant-id"] {
            let headers = [("authorization", bearer.as_str()), (header, "somebody-elses")];
            api.send(&operation.method, &path, &headers, body.as_ref()).await.problem(404, "NOT_FOUND");
        }
    }
    eprintln!("{} operations, {tried} by each role", operations.len());
}
