//! MCP servers: the platform's, which all tenants see and none changes, and each tenant's own with their versions.

use std::collections::BTreeSet;

use super::check::{name_fault, servers as rules};
use super::suggest::hint;
use super::{Control, ControlError, Mistake, Workspace};
use crate::limits;
use crate::model::id::{ServerId, TenantId};
use crate::model::name::Slug;
use crate::model::schema::ConfigSchema;
use crate::model::server::{CanonicalUrl, McpServer, McpTool, Surface, SurfaceDiff};
use crate::store::{Once, ServerRecord, ServerVersion, ServersPage, Users};

/// What a new server is made from.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    pub service: String,
    /// The service, unless given.
    pub name: Option<String>,
    pub url: String,
    pub required_scopes: Vec<String>,
    pub surface: Surface,
}

/// What is to change of a server; what is absent stays. Its schema and tools change with a new version only.
#[derive(Clone, Debug, Default)]
pub struct ServerPatch {
    pub name: Option<String>,
    pub url: Option<String>,
    pub required_scopes: Option<Vec<String>>,
}

/// A new version of a server; what is absent is as in the one before.
#[derive(Clone, Debug, Default)]
pub struct SurfacePatch {
    pub config_schema: Option<ConfigSchema>,
    pub tools: Option<Vec<McpTool>>,
}

/// A version that was saved.
#[derive(Clone, Debug)]
pub struct SavedVersion {
    pub server: ServerRecord,
    pub number: u64,
    /// Against the version before.
    pub diff: SurfaceDiff,
}

/// How far a caller's changes may reach: servers belong to the tenant, and callers may be limited to one project of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Tenant,
    Project,
}

impl Control {
    /// Some of the servers that the workspace sees, ordered by their ids.
    pub async fn server_page(
        &self,
        workspace: &Workspace,
        page: &ServersPage,
    ) -> Result<Vec<ServerRecord>, ControlError> {
        Ok(self.store.servers_page(workspace.tenant.id, page).await?)
    }

    /// The server of this id or service; of a service, the tenant's own before the platform's.
    pub async fn server_get(&self, workspace: &Workspace, asked: &str) -> Result<ServerRecord, ControlError> {
        match self.store.server_get(workspace.tenant.id, asked).await? {
            Some(record) => Ok(record),
            None => {
                let held = self.store.servers_find(workspace.tenant.id).await?;
                Err(not_found(asked, &hint(asked, held.iter().map(|server| server.service.as_str()))))
            }
        }
    }

    /// Registers a server of the tenant. One that stands before the platform's own does so in every project of the tenant.
    pub async fn server_create(
        &self,
        workspace: &Workspace,
        spec: ServerSpec,
        reach: Reach,
        once: Option<&Once>,
    ) -> Result<ServerRecord, ControlError> {
        if let Some(made) = self.made_before(once).await? {
            return self.server_get(workspace, &made).await;
        }
        let tenant = workspace.tenant.id;
        let (server, tools) = checked(spec, tenant)?;
        let namesake = self.store.server_get(tenant, server.service.as_str()).await?;
        if reach == Reach::Project && namesake.is_some_and(|namesake| namesake.server.tenant.is_none()) {
            let because = "the platform has one of that service, and the caller is limited to one project";
            return Err(ControlError::ReadOnly { what: label(&server), because });
        }
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &server.id.to_string()).await?;
        }
        let registered_in = workspace.project.id;
        tx.server_insert((tenant, registered_in), &server, &tools).await?;
        tx.commit().await?;
        Ok(ServerRecord { server, tools, registered_in: Some(registered_in), version: 1 })
    }

    /// Changes a server of the tenant, if it is at the version that is expected.
    pub async fn server_patch(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        patch: ServerPatch,
        reach: Reach,
    ) -> Result<ServerRecord, ControlError> {
        let (mut record, _) = self.server_to_change(workspace, asked, expected, reach).await?;
        let server = &mut record.server;
        let ServerPatch { name, url, required_scopes } = patch;
        let mut mistakes = Vec::new();
        mistakes.extend(name.as_deref().and_then(name_fault).map(|fault| mistake("name", fault)));
        if let Some(url) = url
            && let Some(url) = parsed_url(&url, &mut mistakes)
        {
            server.canonical_url = url;
        }
        server.name = name.unwrap_or_else(|| server.name.clone());
        if let Some(scopes) = required_scopes {
            check_scopes(&scopes, &mut mistakes);
            server.required_scopes = scopes;
        }
        or_mistakes(mistakes)?;
        let mut tx = self.begin().await?;
        tx.server_update(workspace.tenant.id, &record).await?;
        tx.commit().await?;
        record.version += 1;
        Ok(record)
    }

    /// Deletes a server of the tenant, which must have no instance.
    pub async fn server_delete(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        reach: Reach,
    ) -> Result<ServerRecord, ControlError> {
        // Whoever has instances elsewhere keeps it anyway.
        let (record, users) = self.server_to_change(workspace, asked, expected, Reach::Tenant).await?;
        let (what, by) = (label(&record.server), users.names());
        if !by.is_empty() {
            return Err(ControlError::Installed { what, by });
        }
        if reach == Reach::Project && record.registered_in != Some(workspace.project.id) {
            let because = "it was not registered in the one project that the caller is limited to";
            return Err(ControlError::ReadOnly { what, because });
        }
        let mut tx = self.begin().await?;
        tx.server_delete(workspace.tenant.id, &record).await?;
        tx.commit().await?;
        Ok(record)
    }

    /// Saves what a server offers now, as somebody says or as it was found by asking it. Nothing is saved if nothing differs.
    pub async fn server_version_save(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        patch: SurfacePatch,
        reach: Reach,
        once: Option<&Once>,
    ) -> Result<SavedVersion, ControlError> {
        if let Some(made) = self.made_before(once).await? {
            let server = self.server_get(workspace, asked).await?;
            return self.saved_version(server, made.parse().unwrap_or_default()).await;
        }
        let (mut record, _) = self.server_to_change(workspace, asked, expected, reach).await?;
        let surface = Surface {
            config_schema: patch.config_schema.unwrap_or_else(|| record.server.config_schema.clone()),
            tools: patch.tools.unwrap_or_else(|| record.tools.clone()),
        };
        let mut mistakes = Vec::new();
        let surface = checked_surface(surface, &mut mistakes);
        or_mistakes(mistakes)?;
        let differs = surface.config_schema != record.server.config_schema || surface.tools != record.tools;
        record.server.config_schema = surface.config_schema;
        record.tools = surface.tools;
        let mut tx = self.begin().await?;
        if differs {
            tx.server_update(workspace.tenant.id, &record).await?;
            record.version += 1;
        }
        let number = tx.server_version_last(record.server.id).await?.unwrap_or_default();
        if let Some(once) = once {
            tx.once_insert(once, &number.to_string()).await?;
        }
        tx.commit().await?;
        match differs {
            true => self.saved_version(record, number).await,
            false => Ok(SavedVersion { server: record, number, diff: SurfaceDiff::default() }),
        }
    }

    async fn saved_version(&self, server: ServerRecord, number: u64) -> Result<SavedVersion, ControlError> {
        let versions = self.store.server_versions(server.server.id, Some(number + 1), 2).await?;
        let mut surfaces = versions.into_iter().map(|version| version.surface);
        let (after, before) = (surfaces.next().unwrap_or_default(), surfaces.next().unwrap_or_default());
        Ok(SavedVersion { server, number, diff: before.diff(&after) })
    }

    /// Versions of a server before `before`, newest first.
    pub async fn server_versions(
        &self,
        workspace: &Workspace,
        asked: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<ServerVersion>, ControlError> {
        let record = self.server_get(workspace, asked).await?;
        Ok(self.store.server_versions(record.server.id, before, limit).await?)
    }

    /// A server that the caller may change, with those who have installed it.
    async fn server_to_change(
        &self,
        workspace: &Workspace,
        asked: &str,
        expected: Option<u64>,
        reach: Reach,
    ) -> Result<(ServerRecord, Users), ControlError> {
        let record = self.server_get(workspace, asked).await?;
        let what = || label(&record.server);
        if record.server.tenant.is_none() {
            return Err(ControlError::ReadOnly { what: what(), because: "it is the platform's" });
        }
        if expected.is_some_and(|expected| expected != record.version) {
            return Err(ControlError::OtherVersion { what: what(), version: record.version });
        }
        let users = self.store.server_users(workspace.tenant.id, workspace.project.id, record.server.id).await?;
        if reach == Reach::Project && users.elsewhere > 0 {
            let because = "other projects have installed it, and the caller is limited to one";
            return Err(ControlError::ReadOnly { what: what(), because });
        }
        let is_of_another = record.registered_in.is_some_and(|project| project != workspace.project.id);
        if reach == Reach::Project && is_of_another {
            let because = "it was registered in another project, and the caller is limited to one";
            return Err(ControlError::ReadOnly { what: what(), because });
        }
        Ok((record, users))
    }
}

impl Users {
    /// Each by what the caller may know of it.
    fn names(&self) -> Vec<String> {
        let here = self.here.iter().map(|name| format!("instance {name}"));
        let elsewhere = match self.elsewhere {
            0 => None,
            1 => Some("1 instance of another project".to_owned()),
            several => Some(format!("{several} instances of other projects")),
        };
        here.chain(elsewhere).collect()
    }
}

fn checked(spec: ServerSpec, tenant: TenantId) -> Result<(McpServer, Vec<McpTool>), ControlError> {
    let mut mistakes = Vec::new();
    let service = spec.service.parse::<Slug>();
    let service = service.map_err(|error| mistakes.push(mistake("service", error.to_string()))).ok();
    let url = parsed_url(&spec.url, &mut mistakes);
    mistakes.extend(spec.name.as_deref().and_then(name_fault).map(|fault| mistake("name", fault)));
    check_scopes(&spec.required_scopes, &mut mistakes);
    let surface = checked_surface(spec.surface, &mut mistakes);
    let (Some(service), Some(canonical_url), true) = (service, url, mistakes.is_empty()) else {
        return Err(ControlError::Mistakes(mistakes));
    };
    let server = McpServer {
        id: ServerId::generate(),
        tenant: Some(tenant),
        name: spec.name.unwrap_or_else(|| service.to_string()),
        service,
        canonical_url,
        config_schema: surface.config_schema,
        required_scopes: spec.required_scopes,
    };
    Ok((server, surface.tools))
}

fn parsed_url(text: &str, mistakes: &mut Vec<Mistake>) -> Option<CanonicalUrl> {
    rules::url(text).map_err(|reason| mistakes.push(mistake("canonical_url", reason))).ok()
}

fn check_scopes(scopes: &[String], mistakes: &mut Vec<Mistake>) {
    if scopes.len() > limits::REQUIRED_SCOPES_MAX {
        mistakes.push(mistake("required_scopes", format!("there are more than {}", limits::REQUIRED_SCOPES_MAX)));
    }
    for (nth, scope) in scopes.iter().enumerate() {
        mistakes.extend(name_fault(scope).map(|fault| mistake(&format!("required_scopes/{nth}"), fault)));
    }
}

/// The surface with its defaults typed as its keys say.
fn checked_surface(mut surface: Surface, mistakes: &mut Vec<Mistake>) -> Surface {
    for (key, part, reason) in rules::type_defaults(&mut surface.config_schema) {
        let key = key.replace('~', "~0").replace('/', "~1");
        let place =
            if part.is_empty() { format!("config_schema/{key}") } else { format!("config_schema/{key}/{part}") };
        mistakes.push(mistake(&place, reason));
    }
    if surface.config_schema.len() > limits::CONFIG_KEYS_MAX {
        mistakes.push(mistake("config_schema", format!("there are more than {} keys", limits::CONFIG_KEYS_MAX)));
    }
    if surface.tools.len() > limits::SERVER_TOOLS_MAX {
        mistakes.push(mistake("tools", format!("there are more than {}", limits::SERVER_TOOLS_MAX)));
    }
    let mut seen = BTreeSet::new();
    for (nth, tool) in surface.tools.iter().enumerate() {
        let place = format!("tools/{nth}/name");
        mistakes.extend(name_fault(&tool.name).map(|fault| mistake(&place, fault)));
        if !seen.insert(&tool.name) {
            mistakes.push(mistake(&place, format!("there is another tool {:?}", tool.name)));
        }
    }
    let bytes = serde_json::to_vec(&surface.tools).map_or(usize::MAX, |json| json.len());
    if bytes > limits::SERVER_TOOLS_BYTES_MAX {
        mistakes.push(mistake("tools", format!("are larger than {} KiB", limits::SERVER_TOOLS_BYTES_MAX / 1024)));
    }
    surface
}

fn or_mistakes(mistakes: Vec<Mistake>) -> Result<(), ControlError> {
    if mistakes.is_empty() { Ok(()) } else { Err(ControlError::Mistakes(mistakes)) }
}

fn mistake(place: &str, reason: impl Into<String>) -> Mistake {
    Mistake { place: place.to_owned(), code: None, reason: reason.into() }
}

fn label(server: &McpServer) -> String {
    format!("server {}", server.service)
}

fn not_found(asked: &str, hint: &str) -> ControlError {
    ControlError::NotFound { what: format!("MCP server {asked:?}"), hint: hint.to_owned() }
}
