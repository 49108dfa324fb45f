//! Connections whose credentials are leased: what a manifest or a person says of their source, checked. Pure.

use std::collections::BTreeSet;

use crate::model::name::Slug;
use crate::model::secret::{LeasePath, LeasePathError, LeasePattern, SecretSource};
use crate::model::template::Template;

/// What is said of a connection's source.
pub(super) struct Asked<'a> {
    pub template: &'a Template,
    pub lease_path: Option<&'a str>,
    /// The path that the connection has already.
    pub held: Option<&'a LeasePath>,
    pub gives_credentials: bool,
    /// Whether the secret store can issue credentials.
    pub issues_leases: bool,
    /// What its project may lease from; everything if there is none.
    pub patterns: &'a [LeasePattern],
    pub tenant: &'a Slug,
    pub project: &'a Slug,
}

/// Where the fields come from; or what is wrong, each with the key that it is about.
pub(super) fn source(asked: &Asked<'_>) -> Result<SecretSource, Vec<(&'static str, String)>> {
    let template = &asked.template.name;
    if !asked.template.is_leased() {
        let reason = || format!("template {template} asks for credentials and has no lease: vault-database has one");
        return asked.lease_path.map_or(Ok(SecretSource::Stored), |_| Err(vec![("lease_path", reason())]));
    }
    let mut mistakes = Vec::new();
    if !asked.issues_leases {
        let reason = "its credentials are leased, and the sealed store issues none: keep secrets in Vault or OpenBao \
                      (secret_store.kind = \"vault\"), or store a login of template postgres";
        mistakes.push(("template", reason.to_owned()));
    }
    if asked.gives_credentials {
        mistakes.push(("credentials", "they are issued from its lease_path: leave them out".to_owned()));
    }
    let path = match (asked.lease_path, asked.held) {
        (Some(text), _) => permitted(text, asked),
        (None, Some(held)) => Ok(held.clone()),
        (None, None) => Err(format!("template {template} requires it, such as database/creds/reporting")),
    };
    match path {
        Ok(path) if mistakes.is_empty() => Ok(SecretSource::Leased { path }),
        Ok(_) => Err(mistakes),
        Err(reason) => {
            mistakes.push(("lease_path", reason));
            Err(mistakes)
        }
    }
}

/// The path, if connections of the project may lease from there. One that it has already is not asked about again.
fn permitted(text: &str, asked: &Asked<'_>) -> Result<LeasePath, String> {
    let path: LeasePath = text.parse().map_err(|error: LeasePathError| error.to_string())?;
    let is_permitted = asked.patterns.is_empty()
        || asked.held == Some(&path)
        || asked.patterns.iter().any(|pattern| pattern.permits(&path, asked.tenant, asked.project));
    let reason = || format!("{path} is not for this project: see secret_store.vault.lease_paths in the settings");
    if is_permitted { Ok(path) } else { Err(reason()) }
}

/// What a leased connection offers: the fields of each lease.
pub(super) fn fields(template: &Template) -> BTreeSet<String> {
    template.fields.iter().map(|field| field.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::Catalogue;

    #[test]
    fn a_leased_connection_has_a_path_and_no_credentials_and_a_store_that_issues_them() {
        let catalogue = Catalogue::built_in();
        let held: LeasePath = "database/creds/old".parse().unwrap();
        let good = Some("database/creds/new");
        let patterns: [LeasePattern; 1] = ["database/creds/*".parse().unwrap()];
        let (tenant, project): (Slug, Slug) = ("acme".parse().unwrap(), "shop".parse().unwrap());
        type Row<'a> = (&'a str, Option<&'a str>, Option<&'a LeasePath>, bool, bool, &'a [&'a str]);
        let table: [Row<'_>; 9] = [
            ("vault-database", good, None, false, true, &[]),
            ("vault-database", None, Some(&held), false, true, &[]),
            ("vault-database", None, None, false, true, &["lease_path"]),
            ("vault-database", Some("aws/creds/new"), None, false, true, &["lease_path"]),
            ("vault-database", Some("sys/seal"), None, false, true, &["lease_path"]),
            ("vault-database", good, None, true, true, &["credentials"]),
            ("vault-database", good, None, false, false, &["template"]),
            ("postgres", None, None, true, false, &[]),
            ("postgres", good, None, true, true, &["lease_path"]),
        ];
        for (template, lease_path, held, gives_credentials, issues_leases, wrong) in table {
            let template = catalogue.get(template).unwrap();
            let (patterns, tenant, project) = (patterns.as_slice(), &tenant, &project);
            let asked =
                Asked { template, lease_path, held, gives_credentials, issues_leases, patterns, tenant, project };
            let mistakes = source(&asked).err().unwrap_or_default();
            let at: Vec<&str> = mistakes.iter().map(|(key, _)| *key).collect();
            assert_eq!(at, wrong, "{mistakes:?}");
        }
        let asked = Asked {
            template: catalogue.get("vault-database").unwrap(),
            lease_path: good,
            held: Some(&held),
            gives_credentials: false,
            issues_leases: true,
            patterns: &[],
            tenant: &tenant,
            project: &project,
        };
        assert_eq!(source(&asked).unwrap().lease_path().unwrap().as_str(), "database/creds/new");
    }
}
