//! Every operation of the description tried by nobody, a stranger, another tenant, another project, and each role.

use credway::control::TokenSpec;
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

/// What is there, by the parameters of paths.
struct Things {
    connection: String,
    server: String,
    instance: String,
    profile: String,
    token: String,
}

impl Things {
    async fn of(api: &Api, admin: &str) -> Self {
        let first = async |path: &str| {
            let listed = api.ask(admin, "GET", path, None).await.ok();
            listed["items"][0]["id"].as_str().unwrap_or_else(|| panic!("nothing at {path}: {listed}")).to_owned()
        };
        let instance = first("/v1/mcp/instances").await;
        let installed = api.ask(admin, "GET", &format!("/v1/mcp/instances/{instance}"), None).await.ok();
        Self {
            connection: first("/v1/connections").await,
            server: installed["server"]["id"].as_str().or(installed["server_id"].as_str()).unwrap().to_owned(),
            profile: first(&format!("/v1/mcp/instances/{instance}/config-profiles")).await,
            token: first("/v1/pats").await,
            instance,
        }
    }

    fn ids(&self) -> [&str; 5] {
        [&self.connection, &self.server, &self.instance, &self.profile, &self.token]
    }

    /// The operation's path with these ids.
    fn path(&self, operation: &Operation) -> String {
        let id = match operation.path.as_str() {
            path if path.contains("/workflows/") => "rehearsal",
            path if path.contains("/servers/") => self.server.as_str(),
            path if path.contains("/instances/") => &self.instance,
            path if path.contains("/pats/") => &self.token,
            _ => &self.connection,
        };
        let path = operation.path.replace("{profile_id}", &self.profile).replace("{connection_id}", &self.connection);
        path.replace("{id}", id)
    }

    /// What it would take to change something.
    fn body(&self, operation: &Operation) -> Option<Value> {
        let end = operation.path.rsplit('/').next().unwrap_or_default();
        Some(match (operation.method.as_str(), end) {
            ("POST", "rotate") => json!({ "credentials": { "api_key": "stolen" } }),
            ("POST", "config-profiles") => json!({ "name": "stolen" }),
            ("POST", "apply-connection") => json!({ "connection_id": self.connection }),
            ("POST", "versions") => json!({ "config_schema": {}, "tools": [] }),
            ("PATCH", "services") => json!({ "services": { "gmail": true } }),
            ("PATCH", _) if operation.path.contains("/connections/") => json!({ "display_name": "Stolen" }),
            ("PATCH", _) => json!({ "name": "stolen" }),
            _ => return operation.body(),
        })
    }
}

/// A problem without what differs from one request to the next.
fn told(problem: &Value, things: &Things) -> String {
    let mut problem = problem.clone();
    problem["request_id"] = Value::Null;
    problem["instance"] = Value::Null;
    things.ids().into_iter().fold(problem.to_string(), |text, id| text.replace(id, "nothing"))
}

#[tokio::test]
async fn what_another_tenant_has_is_not_there() {
    let api = Api::embedded().await;
    let admin = api.token(Role::Admin).await;
    let things = Things::of(&api, &admin).await;
    let rival = api.world.project("rival", "payments").await;
    let spec = TokenSpec {
        project: None,
        name: "rival".into(),
        role: Role::TenantAdmin,
        scopes: Scope::ALL.into_iter().map(|(scope, _)| scope).collect(),
        expires_at: None,
    };
    let rival = api.world.control.token_create(&rival.tenant, spec, None).await.unwrap().1.expose().to_owned();
    let description = api.send("GET", "/v1/openapi.json", &[], None).await.ok();
    let before = api.ask(&admin, "GET", "/v1/connections", None).await.ok();
    let mut tried = 0;
    for operation in operations(&description) {
        let body = things.body(&operation);
        let answer = api.ask(&rival, &operation.method, &things.path(&operation), body.as_ref()).await;
        // Workflows are not ours: each project may override any that it names. And templates are everybody's.
        let is_everybodys = operation.path.starts_with("/v1/workflows/") || operation.path.contains("{template}");
        if !operation.path.contains('{') || is_everybodys {
            let text = answer.body.to_string();
            assert!(things.ids().iter().all(|id| !text.contains(id)), "{operation:?} tells of another tenant: {text}");
            continue;
        }
        let nothing = api.ask(&rival, &operation.method, &operation.asked(), body.as_ref()).await;
        assert_eq!(answer.status, 404, "{operation:?}: {answer:?}");
        assert_eq!(told(&answer.body, &things), told(&nothing.body, &things), "{operation:?} tells that it is there");
        tried += 1;
    }
    let after = api.ask(&admin, "GET", "/v1/connections", None).await.ok();
    assert_eq!(before, after);
    eprintln!("{tried} operations on what another tenant has");
}
