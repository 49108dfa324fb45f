//! Callers known by their uid or by their certificate: the `[[callers]]` tables.

use std::str::FromStr;

use secrecy::ExposeSecret;

use super::document::OneTable;
use super::reader::Reader;
use super::settings::CALLERS;
use super::values::{self, Wrong};
use super::{Identity, KnownCaller};
use crate::model::caller::{Role, ScopeSet};

/// The callers that could be read; what is wrong with the others is noted.
pub(super) fn known(reader: &mut Reader, tables: &[OneTable]) -> Vec<KnownCaller> {
    let mut callers: Vec<KnownCaller> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let path = format!("{CALLERS}[{index}]");
        let Some(caller) = (Fields { reader, table, path: &path }).caller() else { continue };
        if callers.iter().any(|other| other.identity == caller.identity) {
            reader.mistake_at(&path, table.source.clone(), "is listed twice", "keep one table for each caller");
        }
        reader.note(path, shown(&caller), table.source.clone());
        callers.push(caller);
    }
    callers
}

struct Fields<'a> {
    reader: &'a mut Reader,
    table: &'a OneTable,
    path: &'a str,
}

impl Fields<'_> {
    fn caller(&mut self) -> Option<KnownCaller> {
        let uid = self.optional("uid", uid);
        let name = self.optional("certificate_name", values::text);
        let tenant = self.required("tenant", values::slug);
        let project = self.optional("project", values::slug);
        let role = self.optional("role", role);
        let scopes = self.required("scopes", scopes);
        let identity = match (self.is_given("uid"), self.is_given("certificate_name")) {
            (true, false) => uid.map(Identity::Uid),
            (false, true) => name.map(Identity::CertificateName),
            _ => {
                let source = self.table.source.clone();
                let remedy = "give either its uid or its certificate_name";
                self.reader.mistake_at(self.path, source, "does not say by what the caller is known", remedy);
                None
            }
        };
        // The least role is the default: what an executor may do comes from its scopes.
        let role = role.unwrap_or(Role::Viewer);
        Some(KnownCaller { identity: identity?, tenant: tenant?, project, role, scopes: scopes? })
    }

    fn is_given(&self, field: &str) -> bool {
        self.table.fields.contains_key(field)
    }

    fn optional<T>(&mut self, field: &str, parse: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let given = self.table.fields.get(field)?;
        let path = format!("{}.{field}", self.path);
        self.reader.accept(&path, given.source.clone(), parse(given.text.expose_secret()))
    }

    fn required<T>(&mut self, field: &str, parse: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        if !self.is_given(field) {
            let (path, source) = (format!("{}.{field}", self.path), self.table.source.clone());
            self.reader.mistake_at(&path, source, "is missing", "every caller needs a tenant and scopes");
        }
        self.optional(field, parse)
    }
}

fn uid(text: &str) -> Result<u32, Wrong> {
    text.parse().map_err(|_| Wrong { problem: "is not a uid", remedy: "write the user's number, as `id -u` prints it" })
}

fn role(text: &str) -> Result<Role, Wrong> {
    let remedy = r#"write "project_viewer", "project_contributor", "project_admin" or "tenant_admin""#;
    Role::from_str(text).map_err(|_| Wrong { problem: "is not a role", remedy })
}

fn scopes(text: &str) -> Result<ScopeSet, Wrong> {
    let remedy = r#"choose of "mcp:read", "mcp:write", "mcp:execute", "workflow:read", "workflow:run""#;
    let scopes = ScopeSet::from_str(text).ok().filter(|scopes| *scopes != ScopeSet::default());
    scopes.ok_or(Wrong { problem: "is not a list of scopes", remedy })
}

fn shown(caller: &KnownCaller) -> String {
    let identity = match &caller.identity {
        Identity::Uid(uid) => format!("uid {uid}"),
        Identity::CertificateName(name) => name.clone(),
    };
    let project = caller.project.as_ref().map_or("all projects".to_owned(), ToString::to_string);
    format!("{identity}: {} of {} in {project}, {}", caller.role, caller.tenant, caller.scopes)
}
