//! What must hold of the `[oauth]` table of a template, so that a provider can be asked at all.

use crate::model::oauth::{AccountSource, Assertion, ClientAuth, Grant, Provider, field};
use crate::model::template::Template;

/// What the TOML types cannot say of it.
pub(super) fn faults_of(template: &Template, provider: &Provider) -> Vec<String> {
    let mut faults = Vec::new();
    let known = |name: &str| template.open || template.field(name).is_some();
    let unknown = provider.patterns().flat_map(|pattern| pattern.fields()).filter(|name| !known(name));
    faults.extend(unknown.map(|name| format!("[oauth] names {{{name}}}, which is no field")));
    let unknown = provider.reply.fields.keys().filter(|name| !known(name));
    faults.extend(unknown.map(|name| format!("[oauth.reply] gives {name:?}, which is no field")));
    if !template.is_secret(field::ACCESS_TOKEN) || !known(field::ACCESS_TOKEN) {
        faults.push("[oauth] needs a secret field access_token".to_owned());
    }
    for name in [field::REFRESH_TOKEN, field::CLIENT_SECRET, field::PRIVATE_KEY] {
        if template.field(name).is_some_and(|field| !field.secret) {
            faults.push(format!("the field {name:?} is not secret"));
        }
    }
    match (provider.grant, &provider.authorize_url) {
        (Grant::AuthorizationCode, None) if !provider.code_from_page => {
            faults.push("[oauth] says nowhere to send people: add authorize_url, or another grant".to_owned());
        }
        (Grant::AuthorizationCode, Some(_)) if provider.code_from_page => {
            faults.push("[oauth] has an authorize_url, though its codes come from a page".to_owned());
        }
        (Grant::AuthorizationCode, Some(_)) | (_, None) => {}
        (_, Some(_)) => faults.push("[oauth] has an authorize_url, which its grant does not use".to_owned()),
    }
    if provider.sends_issuer && provider.issuer.is_none() {
        faults.push("[oauth] says that sends_issuer, and not which: add issuer".to_owned());
    }
    if provider.grant == Grant::JwtBearer {
        let is_complete = |said: &Assertion| match &said.key_json {
            Some(name) => known(name) && template.is_secret(name),
            None => said.issuer.is_some() && said.key.is_some(),
        };
        if !provider.assertion.as_ref().is_some_and(is_complete) {
            faults.push("[oauth.assertion] needs a secret field as key_json, or issuer and key".to_owned());
        }
    }
    if provider.client_auth == ClientAuth::PrivateKeyJwt && provider.grant == Grant::JwtBearer {
        faults.push("[oauth] signs twice: as the client, and as the account".to_owned());
    }
    let mut unpointed = pointers(provider).into_iter().filter(|pointer| !pointer.starts_with('/'));
    if let Some(pointer) = unpointed.next() {
        faults.push(format!("[oauth] has {pointer:?} where a JSON pointer belongs: it starts with a slash"));
    }
    let is_url = provider.account.as_ref().is_some_and(|account| matches!(account.source, AccountSource::Url(_)));
    if is_url && template.header.is_none() {
        faults.push("[oauth.account] is asked with the template's header, which it does not have".to_owned());
    }
    faults
}

fn pointers(provider: &Provider) -> Vec<&str> {
    let reply = &provider.reply;
    let account = provider.account.iter().flat_map(|account| [Some(&account.id), account.label.as_ref()]).flatten();
    [&reply.access_token, &reply.refresh_token, &reply.expires_in, &reply.scope]
        .into_iter()
        .chain(&reply.ok)
        .chain(reply.fields.values())
        .chain(account)
        .map(String::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::oauth::Rotation;
    use crate::model::pattern::Filled;
    use crate::model::template::AuthKind;
    use crate::templates::Catalogue;

    /// Those that people knew before there was OAuth here take tokens by hand as well.
    #[test]
    fn every_template_that_says_oauth2_knows_its_provider() {
        let catalogue = Catalogue::built_in();
        for template in catalogue.iter().filter(|template| template.auth_kind == AuthKind::OAuth2) {
            let provider = template.oauth.as_ref().unwrap_or_else(|| panic!("{} has no [oauth]", template.name));
            assert_eq!(faults_of(template, provider), Vec::<String>::new(), "{}", template.name);
            for url in provider.addresses() {
                let literal = url.parts().next();
                let is_https = matches!(literal, Some(Filled::Text(text)) if text.starts_with("https://"));
                let is_field = matches!(literal, Some(Filled::Field(_)));
                assert!(is_https || is_field, "{}: {url:?}", template.name);
            }
        }
    }

    /// What replies do not name is granted all the same, and nothing else is.
    #[test]
    fn what_is_granted_is_more_than_what_replies_name() {
        let catalogue = Catalogue::built_in();
        let table: [(&str, &[&str], &str, bool); 9] = [
            ("microsoft", &["User.Read"], "offline_access", true),
            ("microsoft", &["User.Read"], "openid", true),
            ("microsoft", &["https://graph.microsoft.com/User.Read"], "User.Read", true),
            ("microsoft", &["User.Read"], "https://graph.microsoft.com/User.Read", true),
            ("microsoft", &["User.Read"], "Mail.Read", false),
            ("github-oauth", &["user", "gist"], "user:email", true),
            ("github-oauth", &["user:email"], "user", false),
            ("github-oauth", &["gist"], "user:email", false),
            ("google", &["openid"], "https://www.googleapis.com/auth/drive", false),
        ];
        for (template, named, asked, expected) in table {
            let provider = catalogue.get(template).unwrap().oauth.as_ref().unwrap();
            let named: BTreeSet<String> = named.iter().map(|&scope| scope.to_owned()).collect();
            assert_eq!(provider.grants(&named, asked), expected, "{template}: {asked} by {named:?}");
        }
    }

    #[test]
    fn whoever_decides_where_a_secret_is_sent_says_so() {
        for template in Catalogue::built_in().iter() {
            let Some(provider) = &template.oauth else { continue };
            for name in provider.addresses().flat_map(|url| url.fields()) {
                let field = template.field(name).unwrap();
                let is_asked_by_id = template.name == "whatsapp";
                assert!(field.destination || is_asked_by_id, "{}: {name} is a destination", template.name);
                assert!(!field.secret, "{}: {name} would be in a URL", template.name);
            }
        }
    }

    /// Only what a provider documents is in here; a new one that says less gets the careful default.
    #[test]
    fn refresh_tokens_are_sent_twice_only_where_the_provider_says_that_they_may_be() {
        let catalogue = Catalogue::built_in();
        let repeatable = catalogue.iter().filter(|template| {
            let rotation = template.oauth.as_ref().map(|provider| provider.rotation);
            rotation.is_some_and(|rotation| rotation.may_repeat() || rotation.grace().is_some())
        });
        let names: BTreeSet<&str> = repeatable.map(|template| template.name.as_str()).collect();
        let expected =
            ["dropbox-oauth", "figma-oauth", "google", "jira-oauth", "microsoft", "shopify-oauth", "youtube"];
        assert_eq!(names, BTreeSet::from(expected));
        let killers = catalogue
            .iter()
            .filter(|template| template.oauth.as_ref().is_some_and(|provider| provider.rotation.kills_access()));
        let names: Vec<&str> = killers.map(|template| template.name.as_str()).collect();
        assert_eq!(names, ["airtable-oauth", "github-oauth", "gitlab-oauth", "jira-oauth", "zendesk-oauth"]);
        assert_eq!(catalogue.get("generic-oauth2").unwrap().oauth.as_ref().unwrap().rotation, Rotation::OldDies);
    }

    #[test]
    fn what_cannot_work_is_told() {
        let head = "name = \"a\"\ndisplay_name = \"A\"\nprovider = \"a\"\nauth_kind = \"oauth2\"\n\
                    [[fields]]\nname = \"access_token\"\nlabel = \"T\"\n[oauth]\n";
        let table = [
            ("token_url = \"https://a.example\"", "nowhere to send people"),
            (
                "token_url = \"https://a.example\"\ncode_from_page = true\nauthorize_url = \"https://a.example\"",
                "come from a page",
            ),
            (
                "token_url = \"https://a.example\"\nauthorize_url = \"https://a.example\"\nsends_issuer = true",
                "add issuer",
            ),
            ("token_url = \"{x}\"\nauthorize_url = \"https://a.example\"", "names {x}"),
            ("token_url = \"https://a.example\"\ngrant = \"jwt_bearer\"", "[oauth.assertion] needs"),
            (
                "token_url = \"https://a.example\"\ngrant = \"client_credentials\"\nauthorize_url = \"https://a.example\"",
                "does not use",
            ),
            (
                "token_url = \"https://a.example\"\ngrant = \"client_credentials\"\n[oauth.reply]\nscope = \"scope\"",
                "starts with a slash",
            ),
            (
                "token_url = \"https://a.example\"\ngrant = \"client_credentials\"\n[oauth.reply.fields]\nhost = \"/host\"",
                "gives \"host\"",
            ),
            (
                "token_url = \"https://a.example\"\ngrant = \"client_credentials\"\n[oauth.account]\nsource = { url = \"https://a.example\" }\nid = \"/id\"",
                "does not have",
            ),
        ];
        for (text, expected) in table {
            let template: Template = toml::from_str(&format!("{head}{text}")).unwrap();
            let faults = faults_of(&template, template.oauth.as_ref().unwrap());
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{text}: {faults:?}");
        }
    }
}
