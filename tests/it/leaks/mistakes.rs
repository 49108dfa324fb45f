//! Mistakes beside a secret: malformed manifests, wrong settings, wrong values. The error tells place and reason, never the text.

use crate::leaks::embedded::Stage;
use crate::support::daemon::finish;

fn in_project(rest: &str) -> String {
    format!("tenant: acme\nprojects:\n- project: pay\n  {rest}\n")
}

#[tokio::test]
async fn a_manifest_that_is_refused_is_not_quoted() {
    let mut stage = Stage::new();
    stage.home.config(&[]);
    let secret = stage.canaries.hatch_plain("a manifest");
    let connection = |fields: &str| {
        in_project(&format!("connections: [{{name: c, template: generic-api-key, credentials: {{{fields}}}}}]"))
    };
    let schema = "servers: [{service: s, url: 'https://s.example.com', config: \
                  {K: {type: string, secret: true}, N: {type: number}, B: {type: boolean}}}]";
    let profile = |values: &str| {
        let profiles = format!("profiles: [{{name: p, values: {{{values}}}}}]");
        in_project(&format!("{schema}\n  instances: [{{name: i, server: s, active: p, {profiles}}}]"))
    };
    let manifests = [
        connection(&format!("api_key: {secret}")),
        connection(&format!("api_key: {{{secret}: x}}")),
        connection(&format!("api_key: {{value: [{secret}]}}")),
        connection(&format!("api_key: {{value: {{a: {secret}}}}}")),
        connection(&format!("api_key: {{value: {secret}, file: {secret}}}")),
        connection(&format!("api_key: {{value: '{secret}")),
        connection(&format!("api_key: {{value: {secret}")),
        connection(&format!("api_key: {{value: \"{secret}\\q\"}}")),
        connection(&format!("api_key: {{value: *{secret}}}")),
        connection(&format!("api_key: {{value: !!int {secret}}}")),
        connection(&format!("api_key: {{value: {secret}}}, api_key: {{value: {secret}}}")),
        connection(&format!("api_key: {{value: {secret}}}")).replace("generic-api-key", "github"),
        profile(&format!("K: {secret}")),
        profile(&format!("N: {secret}")),
        profile(&format!("B: {secret}")),
        profile(&format!("K: [{secret}]")),
        secret.clone(),
        format!("- {secret}\n\t{secret}"),
        format!("tenant: [{secret}]"),
        format!("\u{1}{secret}"),
    ];
    for (nth, manifest) in manifests.iter().enumerate() {
        let file = stage.home.write(&format!("manifest-{nth}.yaml"), manifest).display().to_string();
        let config = stage.home.text("credway.toml");
        for more in [&[][..], &["--dry-run"], &["--json"]] {
            stage.run(&[&["apply", "--config", &config, "--file", &file], more].concat()).await.refused(2, &[]);
        }
    }
    stage.canaries.are_in_none_of(&stage.evidence);
}

#[tokio::test]
async fn settings_that_are_refused_are_not_quoted() {
    let mut stage = Stage::new();
    let secret = stage.canaries.hatch_plain("the settings");
    let vault = "[secret_store]\nkind = \"vault\"\n[secret_store.vault]\naddress = \"https://vault.example.com\"\n";
    let auth = |rest: &str| format!("{vault}[secret_store.vault.auth]\nmethod = \"token\"\n{rest}\n");
    let files = [
        auth(&format!("token = \"{secret}")),
        auth(&format!("token = {secret}")),
        auth(&format!("token = [\"{secret}\"]")),
        auth(&format!("token = {{ a = \"{secret}\" }}")),
        auth(&format!("token = \"{secret}\"\ntoken = \"{secret}\"")),
        auth(&format!("token = \"{secret}\"\ntoken_file = \"/nowhere\"")),
        auth(&format!("tokn = \"{secret}\"")),
        auth(&format!("{secret} = 1")),
        auth(&format!("token = \"{secret}\"\nmount = 7\nrole_ids = \"x\"")),
        vault.replace("https://", &format!("https://user:{secret}@")),
        format!("telemetry.otlp_endpoint = \"https://user:{secret}@otlp.example.com\"\n"),
        format!("database.url = \"mysql://credway:{secret}@db/credway\"\n"),
        format!("database.url = \"postgres://credway:{secret}@db:port/credway\"\n"),
        format!("database.url = \"{secret}\"\n"),
        format!("database = \"postgres://credway:{secret}@db/credway\"\n"),
        secret.clone(),
    ];
    for (nth, text) in files.iter().enumerate() {
        let file = stage.home.write(&format!("credway-{nth}.toml"), text).display().to_string();
        for args in
            [&["config", "check"][..], &["config", "show", "--sources"], &["serve"], &["--json", "config", "check"]]
        {
            stage.run(&[args, &["--config", &file]].concat()).await.refused(2, &["CONFIG"]);
        }
    }
    let variables = [
        ("CREDWAY_DATABASE_URL", format!("mysql://credway:{secret}@db/credway")),
        ("CREDWAY_SECRET_STORE_VAULT_AUTH_TOKN", secret.clone()),
        ("CREDWAY_VAULT_TOKEN", secret.clone()),
    ];
    for (name, value) in variables {
        let mut command = stage.home.command(&["config", "check"]);
        command.env(name, value);
        let ran = finish(command).await;
        stage.note(&["config check with", name], &ran);
        ran.refused(2, &["CONFIG"]);
    }
    stage.canaries.are_in_none_of(&stage.evidence);
}

#[tokio::test]
async fn settings_that_are_right_show_no_secret_either() {
    let mut stage = Stage::new();
    let (token, password) = (stage.canaries.hatch_plain("the token"), stage.canaries.hatch_plain("the password"));
    let url = format!("postgres://credway:{password}@db.example.com/credway");
    let file = stage.home.config(&[
        ("database.url", &url),
        ("secret_store.kind", "vault"),
        ("secret_store.vault.address", "https://vault.example.com"),
        ("secret_store.vault.auth.method", "token"),
        ("secret_store.vault.auth.token", &token),
    ]);
    let file = file.display().to_string();
    for args in [&["config", "check"][..], &["config", "show"], &["config", "show", "--sources"]] {
        stage.run(&[args, &["--config", &file]].concat()).await.ok();
    }
    stage.canaries.are_in_none_of(&stage.evidence);
}
