//! Access tokens: made (shown once), listed, revoked. Only their hashes are kept.

use jiff::Timestamp;

use super::check::token_name_fault;
use super::suggest::hint;
use super::{Control, ControlError, Mistake, Reach, Workspace};
use crate::model::caller::{Role, Scope, ScopeSet};
use crate::model::id::{AuditId, InstanceId, ProjectId, TenantId, TokenId};
use crate::model::token::TokenText;
use crate::store::{AuditRecord, Once, TenantRecord, TokenRecord};

/// What a new token is made from.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// The one project it is limited to; `None` for every project of the tenant.
    pub project: Option<ProjectId>,
    pub name: String,
    pub role: Role,
    pub scopes: ScopeSet,
    pub expires_at: Option<Timestamp>,
}

impl Control {
    /// Makes a token. Its text is in the answer, and nowhere else ever again.
    pub async fn token_create(
        &self,
        tenant: &TenantRecord,
        spec: TokenSpec,
        once: Option<&Once>,
    ) -> Result<(TokenRecord, TokenText), ControlError> {
        if let Some(made) = self.made_before(once).await? {
            return Err(ControlError::ShownOnce { what: format!("token {made}") });
        }
        self.token_insert(tenant.id, spec, None, once).await
    }

    /// Makes the token of an MCP process: it gets the config of that instance, and nothing else.
    pub async fn instance_token_create(
        &self,
        workspace: &Workspace,
        instance: &str,
        name: String,
        expires_at: Option<Timestamp>,
    ) -> Result<(TokenRecord, TokenText), ControlError> {
        let instances = self.store.project_state(workspace.project.id).await?.instances;
        let id: Option<InstanceId> = instance.parse().ok();
        let meant = instances.iter().find(|known| Some(known.id) == id || known.name.as_str() == instance);
        let meant = meant.ok_or_else(|| ControlError::NotFound {
            what: format!("MCP instance {instance:?}"),
            hint: hint(instance, instances.iter().map(|known| known.name.as_str())),
        })?;
        let scopes = [Scope::McpExecute].into_iter().collect();
        let spec = TokenSpec { project: Some(workspace.project.id), name, role: Role::Viewer, scopes, expires_at };
        self.token_insert(workspace.tenant.id, spec, Some(meant.id), None).await
    }

    async fn token_insert(
        &self,
        tenant: TenantId,
        spec: TokenSpec,
        instance: Option<InstanceId>,
        once: Option<&Once>,
    ) -> Result<(TokenRecord, TokenText), ControlError> {
        let now = self.clock.now();
        let faults = [
            ("name", token_name_fault(&spec.name)),
            ("expires_at", spec.expires_at.filter(|end| *end <= now).map(|_| "lies in the past".to_owned())),
            ("role", fault_of_role(&spec)),
        ];
        let mistakes: Vec<Mistake> = faults
            .into_iter()
            .filter_map(|(place, fault)| Some(Mistake { place: place.to_owned(), code: None, reason: fault? }))
            .collect();
        if !mistakes.is_empty() {
            return Err(ControlError::Mistakes(mistakes));
        }
        let text = TokenText::generate()?;
        let record = TokenRecord { instance, ..token_record(tenant, spec, &text, now) };
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &record.id.to_string()).await?;
        }
        tx.token_insert(&record).await?;
        tx.commit().await?;
        Ok((record, text))
    }

    /// Revokes the run tokens that were issued so far for the project. They work no longer than daemons take to hear of it.
    pub async fn run_tokens_revoke(&self, workspace: &Workspace) -> Result<Timestamp, ControlError> {
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        tx.run_tokens_revoke(&workspace.project, now).await?;
        tx.commit().await?;
        Ok(now)
    }

    /// The tokens of a project, newest first; revoked and expired ones included.
    pub async fn token_list(&self, workspace: &Workspace) -> Result<Vec<TokenRecord>, ControlError> {
        let mut tokens = self.store.project_state(workspace.project.id).await?.tokens;
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created_at));
        Ok(tokens)
    }

    /// Some tokens of a project, newest first: at most `limit` that are older than `before`. Those of the whole tenant are
    /// among them for who reaches that far.
    pub async fn token_page(
        &self,
        workspace: &Workspace,
        reach: Reach,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenRecord>, ControlError> {
        let of = (workspace.tenant.id, workspace.project.id);
        Ok(self.store.tokens_page(of, reach == Reach::Tenant, before, limit).await?)
    }

    /// What was done in a project, newest first.
    pub async fn audit_page(
        &self,
        workspace: &Workspace,
        before: Option<AuditId>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, ControlError> {
        Ok(self.store.audit_page(workspace.tenant.id, workspace.project.id, before, limit).await?)
    }

    /// Revokes the live token of this id, shown prefix or name, among those that the caller reaches. It works no longer than
    /// daemons take to hear of it.
    pub async fn token_revoke(
        &self,
        workspace: &Workspace,
        reach: Reach,
        asked: &str,
    ) -> Result<TokenRecord, ControlError> {
        let of = (workspace.tenant.id, workspace.project.id);
        let mut meant = self.store.tokens_called(of, reach == Reach::Tenant, asked).await?;
        // Nobody shields a token by calling another one so.
        let exact = |token: &TokenRecord| [token.id.to_string() == asked, token.shown_prefix == asked];
        for nth in 0..2 {
            if meant.iter().any(|token| exact(token)[nth]) {
                meant.retain(|token| exact(token)[nth]);
            }
        }
        let not_found = || ControlError::NotFound { what: format!("live token {asked:?}"), hint: String::new() };
        if meant.len() > 1 {
            let candidates = meant.iter().map(|token| format!("{} ({})", token.id, token.shown_prefix)).collect();
            return Err(ControlError::Ambiguous { what: format!("token {asked:?}"), candidates });
        }
        let mut token = meant.pop().ok_or_else(not_found)?;
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        if !tx.token_revoke(workspace.tenant.id, token.id, now).await? {
            return Err(not_found());
        }
        tx.commit().await?;
        token.revoked_at = Some(now);
        Ok(token)
    }
}

fn fault_of_role(spec: &TokenSpec) -> Option<String> {
    let is_amiss = spec.project.is_some() && spec.role == Role::TenantAdmin;
    is_amiss.then(|| "a token limited to one project cannot be tenant_admin".to_owned())
}

pub(super) fn token_record(tenant: TenantId, spec: TokenSpec, text: &TokenText, now: Timestamp) -> TokenRecord {
    TokenRecord {
        id: TokenId::generate(),
        tenant,
        project: spec.project,
        instance: None,
        name: spec.name,
        shown_prefix: text.shown_prefix().to_owned(),
        hash: text.hash(),
        role: spec.role,
        scopes: spec.scopes,
        created_at: now,
        expires_at: spec.expires_at,
        revoked_at: None,
        last_used_at: None,
    }
}
