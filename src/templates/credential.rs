//! A credential held against its template: which fields there must be, may be, and how large. Never quotes a value.

use std::collections::BTreeSet;

use crate::limits;
use crate::model::secret::{ExposeSecret, SecretFields, SecretString};
use crate::model::template::{Template, TemplateField};

/// What fields start with that no person has: those in which we keep account of tokens and sign-ins.
const RESERVED: &str = "credway.";

/// A credential that fits its template.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// The fields to store: those given, trimmed, and the defaults of those that are missing.
    pub fields: SecretFields,
    /// The fields whose surrounding white space was cut off: pasted values often end in a line break.
    pub trimmed: Vec<String>,
}

/// One thing wrong with a credential, by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldMistake {
    pub field: String,
    pub reason: String,
}

/// Which field names do not fit: unknown to the template, or required and neither `given` nor `stored`.
pub fn check_names(template: &Template, given: &BTreeSet<&str>, stored: &BTreeSet<String>) -> Vec<FieldMistake> {
    let mistake = |field: &str, reason: String| FieldMistake { field: field.to_owned(), reason };
    let mut mistakes = Vec::new();
    for &name in given.iter().filter(|name| template.field(name).is_none()) {
        if !template.open {
            let known: Vec<&str> = template.fields.iter().map(|field| field.name.as_str()).collect();
            mistakes.push(mistake(name, format!("template {} asks for {}", template.name, known.join(", "))));
        } else if !is_field_name(name) {
            let reason = "a field's name is made of letters, digits, underscores, dashes and dots, and does not start with credway.";
            let reason = reason.to_owned();
            mistakes.push(mistake(name, reason));
        }
    }
    for field in template.fields.iter().filter(|field| field.required && field.default.is_none()) {
        if !given.contains(field.name.as_str()) && !stored.contains(&field.name) {
            mistakes.push(mistake(&field.name, format!("template {} requires it ({})", template.name, field.label)));
        }
    }
    let names: BTreeSet<&str> = given.iter().copied().chain(stored.iter().map(String::as_str)).collect();
    if let Some(first_too_many) = names.iter().nth(limits::CREDENTIAL_FIELDS_MAX) {
        let reason = format!("a credential has {} fields at most", limits::CREDENTIAL_FIELDS_MAX);
        mistakes.push(mistake(first_too_many, reason));
    }
    mistakes
}

/// Takes `given` for a connection that already has the fields `stored`, or tells everything that is wrong with it.
pub fn accept(
    template: &Template,
    given: SecretFields,
    stored: &BTreeSet<String>,
) -> Result<Accepted, Vec<FieldMistake>> {
    let names: BTreeSet<&str> = given.keys().map(String::as_str).collect();
    let mut mistakes = check_names(template, &names, stored);
    let mut accepted = Accepted { fields: SecretFields::new(), trimmed: Vec::new() };
    for (name, value) in given {
        let text = value.expose_secret();
        let trimmed = text.trim();
        if let Some(reason) = value_fault(trimmed).or_else(|| form_fault(template.field(&name)?, trimmed)) {
            mistakes.push(FieldMistake { field: name, reason });
            continue;
        }
        if trimmed.len() == text.len() {
            accepted.fields.insert(name, value);
        } else {
            accepted.trimmed.push(name.clone());
            accepted.fields.insert(name, SecretString::from(trimmed));
        }
    }
    for field in &template.fields {
        if let Some(default) = &field.default
            && !stored.contains(&field.name)
            && !accepted.fields.contains_key(&field.name)
        {
            accepted.fields.insert(field.name.clone(), SecretString::from(default.as_str()));
        }
    }
    if mistakes.is_empty() { Ok(accepted) } else { Err(mistakes) }
}

/// The stored secret fields that must be typed again with `given`, because it changes where they are sent (host-change rule).
///
/// `changed` are the fields of `given` whose value differs from what is stored.
pub fn must_be_typed_again<'a>(
    template: &Template,
    given: &BTreeSet<&str>,
    changed: &BTreeSet<&str>,
    stored: &'a BTreeSet<String>,
) -> Vec<&'a str> {
    if !changed.iter().any(|name| template.is_destination(name)) {
        return Vec::new();
    }
    let kept = stored.iter().map(String::as_str).filter(|name| !given.contains(name));
    kept.filter(|name| template.is_secret(name)).collect()
}

fn value_fault(trimmed: &str) -> Option<String> {
    if trimmed.is_empty() {
        Some("is empty".to_owned())
    } else if trimmed.len() > limits::CREDENTIAL_FIELD_BYTES_MAX {
        Some(format!("is larger than {} KiB", limits::CREDENTIAL_FIELD_BYTES_MAX / 1024))
    } else {
        None
    }
}

/// Shows what it is to be like, and nothing of what it is.
fn form_fault(field: &TemplateField, trimmed: &str) -> Option<String> {
    let form = field.pattern.as_ref().filter(|form| !form.fits(trimmed))?;
    Some(format!("is to be of the form {}", field.example.as_deref().unwrap_or(form.as_str())))
}

fn is_field_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let is_ours = name.starts_with(RESERVED);
    (1..=limits::NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(inner) && !is_ours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::Catalogue;

    type Names<'a> = &'a [&'a str];
    type Fields<'a> = &'a [(&'a str, &'a str)];

    fn given(fields: &[(&str, &str)]) -> SecretFields {
        fields.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect()
    }

    fn stored(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_credential_must_fit_its_template() {
        let catalogue = Catalogue::built_in();
        let long = "x".repeat(limits::CREDENTIAL_FIELD_BYTES_MAX + 1);
        let table: [(&str, Fields<'_>, Names<'_>, Names<'_>); 8] = [
            ("github", &[("token", "ghp_x")], &[], &[]),
            ("github", &[], &["token"], &[]),
            ("github", &[], &[], &["token"]),
            ("github", &[("api_key", "x")], &[], &["api_key", "token"]),
            ("github", &[("token", " \n")], &[], &["token"]),
            ("github", &[("token", &long)], &[], &["token"]),
            ("generic-token", &[("token", "x"), ("other.field", "y")], &[], &[]),
            ("generic-token", &[("token", "x"), ("other field", "y")], &[], &["other field"]),
        ];
        for (template, fields, held, wrong) in table {
            let template = catalogue.get(template).unwrap();
            let mistakes = accept(template, given(fields), &stored(held)).err().unwrap_or_default();
            let at: Vec<&str> = mistakes.iter().map(|mistake| mistake.field.as_str()).collect();
            assert_eq!(at, wrong, "{}: {mistakes:?}", template.name);
        }
    }

    #[test]
    fn a_value_of_another_form_is_refused_by_the_example_and_never_quoted() {
        let catalogue = Catalogue::built_in();
        let table = [
            ("clickup", "api_key", "pk_12345_ABC", "canary-Bearer pk_1"),
            ("github", "token", "github_pat_11A", "canary github"),
            ("github", "token", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "Bearer ghp_canary"),
            ("github", "token", "0123456789abcdef0123456789abcdef01234567", "canary"),
            ("slack", "token", "xoxb-1-2-x", "canary-1-2-x"),
            ("slack", "token", "xoxe.xoxb-1-x", "https://canary.slack.com"),
            ("shopify", "shop", "acme", "canary.myshopify.com"),
            ("mongodb", "uri", "mongodb+srv://u:p@cluster.example.com", "postgres://u:canary@h/d"),
            ("neo4j", "uri", "bolt://db:7687", "http://canary:7474"),
        ];
        for (template, name, good, odd) in table {
            let template = catalogue.get(template).unwrap();
            let others: BTreeSet<String> = template.fields.iter().map(|field| field.name.clone()).collect();
            assert!(accept(template, given(&[(name, good)]), &others).is_ok(), "{good}");
            // It is the value as it is stored that counts.
            assert!(accept(template, given(&[(name, &format!(" {good}\n"))]), &others).is_ok(), "{good}");
            let mistakes = accept(template, given(&[(name, odd)]), &others).unwrap_err();
            let example = template.field(name).unwrap().example.clone().unwrap();
            let expected = FieldMistake { field: name.to_owned(), reason: format!("is to be of the form {example}") };
            assert_eq!(mistakes, [expected]);
            assert!(!format!("{mistakes:?}").contains("canary"), "{mistakes:?}");
        }
    }

    #[test]
    fn too_many_fields_are_refused() {
        let catalogue = Catalogue::built_in();
        let fields: SecretFields =
            (0..=limits::CREDENTIAL_FIELDS_MAX).map(|n| (format!("f{n}"), SecretString::from("x"))).collect();
        let mistakes = accept(catalogue.get("generic-token").unwrap(), fields, &stored(&["token"])).unwrap_err();
        assert_eq!(mistakes[0].reason, "a credential has 64 fields at most");
    }

    #[test]
    fn surrounding_white_space_is_cut_off_and_told() {
        let catalogue = Catalogue::built_in();
        let fields = given(&[("token", " secret-1\r\n"), ("note", "inner space stays")]);
        let accepted = accept(catalogue.get("generic-token").unwrap(), fields, &stored(&[])).unwrap();
        assert_eq!(accepted.fields["token"].expose_secret(), "secret-1");
        assert_eq!(accepted.fields["note"].expose_secret(), "inner space stays");
        assert_eq!(accepted.trimmed, ["token"]);
    }

    #[test]
    fn defaults_fill_what_is_neither_given_nor_stored() {
        let catalogue = Catalogue::built_in();
        let mysql = catalogue.get("mysql").unwrap();
        let fields = given(&[("host", "db"), ("database", "d"), ("user", "u"), ("password", "p")]);
        assert_eq!(accept(mysql, fields.clone(), &stored(&[])).unwrap().fields["port"].expose_secret(), "3306");
        assert!(!accept(mysql, fields, &stored(&["port"])).unwrap().fields.contains_key("port"));
    }

    #[test]
    fn whoever_changes_the_host_types_the_secrets_again() {
        let catalogue = Catalogue::built_in();
        let mysql = ["host", "port", "database", "user", "password"];
        let table: [(&str, Names<'_>, Names<'_>, Names<'_>, Names<'_>); 6] = [
            ("mysql", &["host"], &["host"], &mysql, &["password"]),
            ("mysql", &["host", "password"], &["host"], &mysql, &[]),
            ("mysql", &["host", "user"], &["user"], &mysql, &[]),
            ("mysql", &["password"], &["password"], &mysql, &[]),
            ("generic-api-key", &["base_url"], &["base_url"], &["api_key", "base_url"], &["api_key"]),
            ("generic-api-key", &["api_key"], &["api_key"], &["api_key", "base_url"], &[]),
        ];
        for (template, given, changed, held, again) in table {
            let (given, changed) = (given.iter().copied().collect(), changed.iter().copied().collect());
            let held = stored(held);
            let found = must_be_typed_again(catalogue.get(template).unwrap(), &given, &changed, &held);
            assert_eq!(found, again, "{template}, {changed:?} changed");
        }
    }
}
