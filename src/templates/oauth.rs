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
    if provider.grant != Grant::AuthorizationCode && !provider.scopes_always.is_empty() {
        faults.push("[oauth] has scopes_always, which are asked for in sign-ins, and its grant has none".to_owned());
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
    use crate::model::oauth::{Param, Rotation};
    use crate::model::pattern::Filled;
    use crate::model::template::AuthKind;
    use crate::templates::{BUILT_IN, Catalogue};

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
    }

    /// No template has to be remembered for its access token to be taken to die with a refresh: it has to say otherwise.
    #[test]
    fn a_refresh_is_taken_to_end_the_old_access_token_unless_the_template_says_what_becomes_of_it() {
        let catalogue = Catalogue::built_in();
        let of_people = catalogue.iter().filter_map(|template| {
            let provider = template.oauth.as_ref()?;
            (provider.grant == Grant::AuthorizationCode).then_some((template.name.as_str(), provider.rotation))
        });
        let (killers, others): (Vec<_>, Vec<_>) = of_people.partition(|(_, rotation)| rotation.kills_access());
        let expected = [
            ("box-oauth", Rotation::OldDies),
            ("dropbox-oauth", Rotation::None),
            ("figma-oauth", Rotation::None),
            ("google", Rotation::None),
            ("microsoft", Rotation::OldStays),
            ("salesforce-oauth", Rotation::OldDies),
            ("slack-oauth", Rotation::OldDies),
            ("youtube", Rotation::None),
            ("zoom-oauth", Rotation::OldDies),
        ];
        assert_eq!(others, expected);
        for unsaid in ["asana-oauth", "generic-oauth2", "hubspot-oauth", "linear-oauth", "notion-oauth", "wrike-oauth"]
        {
            assert!(killers.contains(&(unsaid, Rotation::OldDiesWithAccess)), "{unsaid}");
        }
        assert!(killers.contains(&("shopify-oauth", Rotation::Grace { seconds: 2_592_000, kills_access: true })));
    }

    /// By default it would be asked for, whatever the provider makes of it.
    #[test]
    fn every_template_that_people_sign_in_by_says_whether_its_provider_takes_pkce() {
        for (file, text) in BUILT_IN {
            let template: toml::Table = toml::from_str(text).unwrap();
            let Some(oauth) = template.get("oauth").and_then(|oauth| oauth.as_table()) else { continue };
            assert!(oauth.contains_key("grant") || oauth.contains_key("pkce"), "{file} does not say pkce");
        }
    }

    #[test]
    fn lives_that_providers_state_are_known_though_a_reply_does_not_say_them() {
        let catalogue = Catalogue::built_in();
        let (hour, day) = (3600, 86_400);
        let table = [
            ("discord-oauth", Some(7 * day), None),
            ("github-oauth", None, Some(180 * day)),
            ("jira-oauth", Some(hour), Some(90 * day)),
            ("linear-oauth", Some(day), None),
            ("reddit", Some(hour), None),
            ("shopify-oauth", Some(hour), Some(90 * day)),
            ("zendesk-oauth", Some(2 * hour), Some(90 * day)),
            ("zoom-oauth", Some(hour), Some(90 * day)),
        ];
        for (name, access, idle) in table {
            let provider = catalogue.get(name).unwrap().oauth.as_ref().unwrap();
            assert_eq!((provider.access_seconds, provider.refresh_idle_seconds), (access, idle), "{name}");
        }
        // Zendesk's are what it is asked for.
        let provider = catalogue.get("zendesk-oauth").unwrap().oauth.as_ref().unwrap();
        let asked = |name: &str| match provider.token_params[name] {
            Param::Number(seconds) => Some(seconds),
            Param::Text(_) => None,
        };
        assert_eq!(asked("expires_in"), provider.access_seconds);
        assert_eq!(asked("refresh_token_expires_in"), provider.refresh_idle_seconds);
    }

    #[test]
    fn a_grant_is_given_back_with_the_token_that_the_provider_takes() {
        let catalogue = Catalogue::built_in();
        let of = |name: &str| catalogue.get(name).unwrap().oauth.as_ref().unwrap().revocation.as_ref();
        for (name, expected) in [("slack-oauth", "at"), ("notion-oauth", "at"), ("google", "rt"), ("asana-oauth", "rt")]
        {
            let revocation = of(name).unwrap();
            assert_eq!(revocation.token_of(Some("at"), Some("rt")), Some(expected), "{name}");
            assert_eq!(revocation.token_of(Some("at"), None), Some("at"), "{name}");
        }
        assert_eq!(of("slack-oauth").unwrap().token_of(None, Some("rt")), None);
        assert!(of("zoom-oauth").is_none(), "where Zoom takes tokens back is not confirmed");
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
            (
                "token_url = \"https://a.example\"\ngrant = \"client_credentials\"\nscopes_always = [\"openid\"]",
                "asked for in sign-ins",
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
