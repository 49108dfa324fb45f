//! Settings: which source wins, and what a person reads when they are wrong.

use std::fmt::Write as _;
use std::time::Duration;

use credway::config::load::{ConfigMistakes, Loaded, Source, Sources, load};
use credway::config::{CachePolicy, Config, Database, Identity, SecretStore, VaultAuth};
use credway::model::secret::ExposeSecret;
use tempfile::TempDir;

/// What must never be read in a mistake, wherever it was typed.
const CANARY: &str = "hvs.CANARY7d1f";

fn of_file(text: &str) -> Result<Loaded, ConfigMistakes> {
    with(text, &[], &[])
}

fn with(text: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Loaded, ConfigMistakes> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("credway.toml");
    std::fs::write(&file, text).unwrap();
    load(&Sources {
        file: Some(file),
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        flags: flags.iter().map(|(path, value)| (*path, (*value).into())).collect(),
    })
}

fn config(text: &str) -> Config {
    of_file(text).unwrap_or_else(|mistakes| panic!("{mistakes}")).config
}

/// The mistakes as `path line: problem; remedy`, one a line.
fn mistakes(loaded: Result<Loaded, ConfigMistakes>) -> String {
    let mistakes = loaded.expect_err("the settings were taken");
    let mut lines = String::new();
    for mistake in mistakes.all() {
        let place = match &mistake.found_in {
            Source::Default => "-".to_owned(),
            Source::File { line, .. } => line.to_string(),
            Source::Environment(name) => name.clone(),
            Source::Flag => "flag".to_owned(),
        };
        writeln!(lines, "{} {place}: {}; {}", mistake.path, mistake.problem, mistake.remedy).unwrap();
    }
    lines
}

#[test]
fn nothing_said_means_one_host_with_all_in_the_data_directory() {
    let config = load(&Sources::default()).unwrap().config;
    let Database::Sqlite { path } = &config.database else { panic!("not SQLite") };
    assert_eq!(path.to_str(), Some("/var/lib/credway/credway.db"));
    let SecretStore::Sealed { master_key_file } = &config.secret_store else { panic!("not sealed") };
    assert_eq!(master_key_file.to_str(), Some("/var/lib/credway/master.key"));
    let socket = config.grpc.socket.expect("a socket");
    assert_eq!((socket.path.to_str(), socket.mode), (Some("/var/lib/credway/credway.sock"), 0o660));
    assert_eq!(config.grpc.address, None);
    assert_eq!(config.http.address, Some("127.0.0.1:8420".parse().unwrap()));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let file = "[shutdown]\ndrain = \"1s\"\n";
    let variable = [("CREDWAY_SHUTDOWN_DRAIN", "2s")];
    let flag = [("shutdown.drain", "3s")];
    let table = [
        (with("", &[], &[]), 10, "default"),
        (with(file, &[], &[]), 1, "credway.toml:2"),
        (with(file, &variable, &[]), 2, "environment CREDWAY_SHUTDOWN_DRAIN"),
        (with(file, &variable, &flag), 3, "flag"),
        (with(file, &[("CREDWAY_SHUTDOWN_DRAIN", "")], &[]), 1, "credway.toml:2"),
    ];
    for (loaded, seconds, source) in table {
        let loaded = loaded.unwrap();
        assert_eq!(loaded.config.shutdown.drain, Duration::from_secs(seconds));
        let setting = loaded.settings.iter().find(|setting| setting.path == "shutdown.drain").unwrap();
        assert!(setting.source.to_string().ends_with(source), "{} is not {source}", setting.source);
        assert_eq!(setting.shown, format!("{seconds}s"));
    }
}

#[test]
fn the_whole_file_is_understood() {
    let config = config(
        r#"
        data_dir = "/srv/credway"
        [database]
        url = "postgres://credway:pw@db/credway"
        [secret_store]
        kind = "vault"
        [secret_store.vault]
        address = "https://vault.internal:8200"
        namespace = "platform"
        mount = "team/secret"
        [secret_store.vault.auth]
        method = "approle"
        role_id = "credway"
        secret_id_file = "/run/secret-id"
        [cache]
        secret_ttl = "1m"
        entries_max = 500
        bytes_max = "16MiB"
        [grpc]
        socket = "/run/credway/credway.sock"
        socket_mode = "0600"
        socket_group = 1000
        address = "0.0.0.0:8421"
        call_deadline = "500ms"
        [grpc.tls]
        cert_file = "/tls/cert.pem"
        key_file = "/tls/key.pem"
        client_ca_file = "/tls/ca.pem"
        [http]
        address = "off"
        [catalogue]
        base_url = "https://MCP.acme.example/v1/"
        [[callers]]
        uid = 1000
        tenant = "acme"
        project = "prod"
        scopes = ["mcp:execute", "mcp:read"]
        [[callers]]
        certificate_name = "spiffe://acme/executor"
        tenant = "acme"
        role = "project_admin"
        scopes = "mcp:execute"
        [telemetry]
        log_level = "info,credway=debug"
        log_format = "text"
        otlp_endpoint = "http://127.0.0.1:4317"
        trace_sample_ratio = 0.25
        "#,
    );
    let Database::Postgres { url } = &config.database else { panic!("not PostgreSQL") };
    assert_eq!(url.expose_secret(), "postgres://credway:pw@db/credway");
    let SecretStore::Vault(vault) = &config.secret_store else { panic!("not Vault") };
    assert_eq!((vault.mount.as_str(), vault.prefix.as_str()), ("team/secret", "credway"));
    assert!(
        matches!(&vault.auth, VaultAuth::AppRole { mount, role_id, .. } if mount == "approle" && role_id == "credway")
    );
    assert_eq!((config.cache.entries_max, config.cache.bytes_max), (500, 16 << 20));
    let socket = config.grpc.socket.as_ref().unwrap();
    assert_eq!((socket.mode, socket.group.as_deref(), socket.owner.as_deref()), (0o600, Some("1000"), None));
    assert_eq!(config.grpc.call_deadline, Duration::from_millis(500));
    assert!(config.grpc.tls.is_some() && config.http.address.is_none());
    assert_eq!(config.catalogue_base_url.as_str(), "https://mcp.acme.example/v1");
    assert_eq!(config.known_callers[0].identity, Identity::Uid(1000));
    assert_eq!(config.known_callers[1].identity, Identity::CertificateName("spiffe://acme/executor".into()));
    assert_eq!(config.known_callers[1].role.to_string(), "project_admin");
    assert!((config.telemetry.trace_sample_ratio - 0.25).abs() < f64::EPSILON);
}

#[test]
fn a_policy_is_for_all_templates_but_those_that_have_their_own() {
    let config = config(
        r#"
        [cache]
        max_stale = "5m"
        policy = "fidelity"
        [cache.policies]
        generic-api-key = "availability"
        postgres = "fidelity"
        "#,
    );
    assert_eq!(config.cache.max_stale, Duration::from_secs(300));
    assert_eq!(config.cache.policy_of("generic-api-key"), CachePolicy::Availability);
    assert_eq!(config.cache.policy_of("postgres"), CachePolicy::Fidelity);
    assert_eq!(config.cache.policy_of("any-other"), CachePolicy::Fidelity);
}

#[test]
fn policies_of_templates_are_a_table_in_the_file_and_a_list_in_the_environment() {
    let file = "[cache]\npolicies = { postgres = \"fidelity\", github = \"availability\" }";
    let variable = [("CREDWAY_CACHE_POLICIES", "mysql=fidelity,postgres=availability")];
    let table = [
        (with("", &[], &[]), "none", CachePolicy::Availability, "default"),
        (with(file, &[], &[]), "github=availability,postgres=fidelity", CachePolicy::Fidelity, "credway.toml:2"),
        (
            with(file, &variable, &[]),
            "mysql=fidelity,postgres=availability",
            CachePolicy::Availability,
            "environment CREDWAY_CACHE_POLICIES",
        ),
    ];
    for (loaded, shown, policy, source) in table {
        let loaded = loaded.unwrap();
        let setting = loaded.settings.iter().find(|setting| setting.path == "cache.policies").unwrap();
        assert_eq!((setting.shown.as_str(), loaded.config.cache.policy_of("postgres")), (shown, policy));
        assert!(setting.source.to_string().ends_with(source), "{}", setting.source);
    }
}

/// Each mistake alone: the file, and what must be said of it.
const MISTAKES: &[(&str, &str)] = &[
    ("[grpc]\nadress = \"127.0.0.1:1\"", "grpc.adress 2: is not a setting; did you mean grpc.address?"),
    ("[grcp]\naddress = \"127.0.0.1:1\"", "grcp 1: is not a setting; did you mean grpc?"),
    ("colour = 1", "colour 1: is not a setting; `credway config show` lists all settings"),
    ("grpc = 1", "grpc 1: is a section, not a value; write [grpc] above its settings"),
    ("[http]\naddress = [1]", "http.address 2: is not a single value; write one value in quotes"),
    ("[http]\naddress = \"localhost\"", "http.address 2: is not an address; write IP and port like"),
    ("[cache]\nsecret_ttl = 30", "cache.secret_ttl 2: is not a duration; write it like \"30s\""),
    ("[cache]\nsecret_ttl = \"2h\"", "cache.secret_ttl 2: is longer than 1h; shorten it"),
    ("[cache]\nmax_stale = \"25h\"", "cache.max_stale 2: is longer than 24h; shorten it"),
    ("[cache]\npolicy = \"strict\"", "cache.policy 2: is not a policy; write \"availability\" (the default) or"),
    ("[cache.policies]\npostgres = \"strict\"", "cache.policies 1: does not give templates availability or fidelity"),
    ("[cache.policies]\npostgres = [\"fidelity\"]", "cache.policies 1: holds more than one value for a template"),
    (
        "[catalogue]\nbase_url = \"https://u:p@host/\"",
        "catalogue.base_url 2: is not the URL of a server; write it like",
    ),
    ("[cache]\npolicies = 1", "cache.policies 2: does not give templates availability or fidelity; write lines like"),
    ("[cache]\nbytes_max = \"1MB\"", "cache.bytes_max 2: is not a size; write bytes"),
    ("[cache]\nentries_max = 0", "cache.entries_max 2: leaves no room for a single secret"),
    ("[grpc]\nsocket_mode = \"rw\"", "grpc.socket_mode 2: is not a file mode; write permission bits in octal"),
    ("[grpc]\nsocket = \"off\"", "grpc.socket 2: is off, and there is no other listener"),
    ("[grpc]\naddress = \"0.0.0.0:8421\"", "grpc.address 2: is off loopback and needs [grpc.tls]"),
    ("[grpc]\ncall_deadline = \"11s\"", "grpc.call_deadline 2: is longer than 10s"),
    ("[grpc]\ncall_deadline = \"0s\"", "grpc.call_deadline 2: leaves calls no time"),
    ("[grpc]\ncalls_in_flight_max = 0", "grpc.calls_in_flight_max 2: is not between 1 and 1000000"),
    ("[grpc.tls]\nkey_file = \"k\"", "grpc.tls.key_file 2: is given, but nothing listens with it; give grpc.address"),
    (
        "[grpc]\naddress = \"127.0.0.1:1\"\n[grpc.tls]\nkey_file = \"k\"",
        "grpc.tls.cert_file -: is missing; TLS needs cert_file, key_file and client_ca_file",
    ),
    ("[secret_store]\nkind = \"vualt\"", "secret_store.kind 2: is not a kind of secret store; write \"sealed\""),
    (
        "[secret_store]\nkind = \"vault\"",
        "secret_store.vault.address -: is missing; a secret store of kind vault needs",
    ),
    (
        "[secret_store.vault]\naddress = \"http://127.0.0.1:8200\"",
        "secret_store.vault.address 2: is given, but the kind of the secret store is not; write kind = \"vault\"",
    ),
    ("[database]\nurl = \"mysql://h/d\"", "database.url 2: names a database that is neither PostgreSQL nor SQLite"),
    ("[database]\nurl = \"postgres://h:port/d\"", "database.url 2: is not a database URL; write \"postgres://"),
    ("[database]\nurl = \"sqlite::memory:\"", "database.url 2: is not the path of a SQLite file"),
    (
        "[database]\nurl = \"sqlite:/a\"\nurl_file = \"/b\"",
        "database.url_file 3: is given beside database.url; keep one",
    ),
    (
        "[database]\nurl_file = \"/nowhere/at/all\"",
        "database.url_file 2: the file does not exist; name a readable file",
    ),
    ("[telemetry]\nlog_level = \"inof\"", "telemetry.log_level 2: is not a log filter; write a level"),
    ("[telemetry]\nlog_format = \"xml\"", "telemetry.log_format 2: is not a log format; write \"json\" or \"text\""),
    ("[telemetry]\notlp_endpoint = \"collector:4317\"", "telemetry.otlp_endpoint 2: is not an http or https URL"),
    ("[telemetry]\ntrace_sample_ratio = 2", "telemetry.trace_sample_ratio 2: is not a share between 0 and 1"),
    ("[callers]\nuid = 1", "callers 1: is not a list of tables; write [[callers]] above each caller"),
    ("[[callers]]\ntenant = \"a\"\nscopes = \"mcp:read\"", "callers[0] 1: does not say by what the caller is known"),
    ("[[callers]]\nuid = 1\nscopes = \"mcp:read\"", "callers[0].tenant 1: is missing; every caller needs a tenant and"),
    ("[[callers]]\nuid = 1\ntenant = \"a\"\nscopes = []", "callers[0].scopes 4: is not a list of scopes; choose of"),
    ("[[callers]]\nuid = 1\ntenant = \"a\"\nscope = 1", "callers[0].scope 4: is not a setting; did you mean scopes?"),
    (
        "[[callers]]\nuid = \"root\"\ntenant = \"a\"\nscopes = \"mcp:read\"",
        "callers[0].uid 2: is not a uid; write the user",
    ),
    ("[oauth]\npublic_url = \"http://credway.example\"", "oauth.public_url 2: is http, and not on this machine; serve"),
    (
        "[oauth]\npublic_url = \"https://c.example/?a=b\"",
        "oauth.public_url 2: holds a query or fragment; write it like",
    ),
    ("[oauth]\nclients = \"x\"", "oauth.clients 2: is not a table of clients; write [oauth.clients.slack] above"),
    (
        "[oauth.clients]\nclient_id = \"x\"",
        "oauth.clients 2: holds something that is not a client; write [oauth.clients",
    ),
    (
        "[oauth.clients.a]\nclient_secret = \"x\"",
        "oauth.clients.a.client_id 1: is missing; write the id that the provider",
    ),
    (
        "[oauth.clients.a]\nclient_id = \"x\"\nclient_secert = \"y\"",
        "oauth.clients.a.client_secert 3: is not a setting; did you mean client_secret?",
    ),
    (
        "[oauth.clients.a]\nclient_id = \"x\"\nclient_secret = \"y\"\nclient_secret_file = \"/z\"",
        "oauth.clients.a.client_secret_file 4: is given beside client_secret; keep one of them",
    ),
    (
        "[oauth.clients.a]\nclient_id = \"x\"\nclient_secret_file = \"/nowhere/at/all\"",
        "oauth.clients.a.client_secret_file 3: the file does not exist; name a readable file",
    ),
    (
        "[oauth.clients.a]\nclient_id = \"x\"\nkey_id = \"k\"",
        "oauth.clients.a.key_id 3: is given, but no key is; give private_key_file too",
    ),
    ("a = 1\na = 2", " 2: is not TOML: duplicate key; correct that line"),
    ("[http\naddress = 1", " 1: is not TOML: unclosed table, expected `]`; correct that line"),
];

#[test]
fn each_mistake_is_said_with_its_place_and_its_remedy() {
    for (file, said) in MISTAKES {
        let lines = mistakes(of_file(file));
        assert!(lines.lines().any(|line| line.starts_with(said)), "of\n{file}\nit was said\n{lines}and not\n{said}");
    }
}

#[test]
fn every_way_to_log_in_to_vault_says_what_it_lacks() {
    let table = [
        ("token", "token"),
        ("token_file", "token_file"),
        ("approle", "role_id"),
        ("approle", "secret_id_file"),
        ("kubernetes", "role"),
        ("cert", "cert_file"),
        ("cert", "key_file"),
    ];
    for (method, lacking) in table {
        let file = format!(
            "[secret_store]\nkind = \"vault\"\nvault.address = \"http://127.0.0.1:8200\"\nvault.auth.method = \"{method}\""
        );
        let lines = mistakes(of_file(&file));
        let said = format!("secret_store.vault.auth.{lacking} -: is missing; the method {method} needs");
        assert!(lines.lines().any(|line| line.starts_with(&said)), "of {method} it was said\n{lines}");
    }
}

#[test]
fn all_mistakes_are_reported_together_in_the_order_of_the_file() {
    let file =
        "[http]\naddress = \"x\"\n[grpc]\nadress = 1\ncall_deadline = \"1m\"\n[secret_store]\nkind = \"vault\"\n";
    let environment = [("CREDWAY_CACHE_SECRET_TTL", "soon"), ("CREDWAY_GRPC_ADRESS", "x")];
    let lines = mistakes(with(file, &environment, &[("shutdown.drain", "1h")]));
    let places: Vec<&str> = lines.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "http.address 2",
            "grpc.adress 4",
            "grpc.call_deadline 5",
            " CREDWAY_GRPC_ADRESS",
            "cache.secret_ttl CREDWAY_CACHE_SECRET_TTL",
            "shutdown.drain flag",
            "secret_store.vault.address -",
            "secret_store.vault.auth.method -",
        ]
    );
    assert!(lines.contains("is not a setting; did you mean CREDWAY_GRPC_ADDRESS?"), "{lines}");
}

#[test]
fn no_mistake_repeats_what_was_typed() {
    let dir = TempDir::new().unwrap();
    let holder = dir.path().join("url");
    std::fs::write(&holder, CANARY).unwrap();
    let mut said = String::new();
    // As the value of every setting, wrong or right, in file, environment and flag.
    let paths = load(&Sources::default()).unwrap().settings;
    for path in paths.iter().map(|setting| setting.path.as_str()).chain(["secret_store.vault.auth.token", "data_dir"]) {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        for value in [format!("\"{CANARY}\""), format!("[\"{CANARY}\"]"), CANARY.to_owned(), format!("\"{CANARY}")] {
            let file = format!("{header}{key} = {value}\nunknown = 1");
            writeln!(said, "{:?}", of_file(&file).expect_err("an unknown key is a mistake")).unwrap();
        }
        let variable = format!("CREDWAY_{}", path.replace('.', "_").to_uppercase());
        let loaded = with("unknown = 1", &[(&variable, CANARY)], &[]);
        writeln!(said, "{:?}", loaded.expect_err("an unknown key is a mistake")).unwrap();
    }
    // As a key, as a whole line, in a caller, as an unknown variable's value and inside a file that is named.
    for file in [
        format!("\"{CANARY}\" = 1"),
        format!("[[callers]]\nuid = \"{CANARY}\"\n\"{CANARY}\" = 1\nrole = \"{CANARY}\"\nscopes = [\"{CANARY}\"]"),
        format!("[oauth.clients.a]\nclient_secret = \"{CANARY}\"\n\"{CANARY}\" = 1"),
        format!("[oauth.clients.\"{CANARY}\"]\nclient_id = 1"),
        format!("[oauth.clients]\na = \"{CANARY}\""),
        format!("{CANARY}\n"),
        format!("a = 'x\n{CANARY}"),
        format!("[database]\nurl_file = {holder:?}"),
        format!("[secret_store.vault]\naddress = \"https://user:{CANARY}@vault\""),
    ] {
        let mistakes = of_file(&file).expect_err("the settings were taken");
        writeln!(said, "{mistakes:?}\n{mistakes}").unwrap();
    }
    writeln!(said, "{}", mistakes(with("", &[("CREDWAY_TOKN", CANARY)], &[]))).unwrap();
    assert!(!said.contains("CANARY7d1f"), "{}", said.lines().find(|line| line.contains("CANARY7d1f")).unwrap());
}

#[test]
fn secrets_are_shown_as_set_and_debug_hides_them() {
    let file = format!(
        "[database]\nurl = \"postgres://u:{CANARY}@h/d\"\n[secret_store]\nkind = \"vault\"\nvault.address = \"https://v\"\n\
         vault.auth.method = \"token\"\nvault.auth.token = \"{CANARY}\""
    );
    let loaded = of_file(&file).unwrap();
    let shown = |path: &str| loaded.settings.iter().find(|setting| setting.path == path).unwrap().shown.clone();
    assert_eq!((shown("database.url"), shown("secret_store.vault.auth.token")), ("set".into(), "set".into()));
    assert!(!format!("{loaded:?}").contains("CANARY7d1f"));
}

#[test]
fn oauth_clients_are_tables_by_template() {
    let config = config(
        r#"
        [oauth]
        public_url = "https://credway.acme.example/"
        [oauth.clients.github-oauth]
        client_id = "Iv1.8a61"
        client_secret = "hush"
        [oauth.clients.linear-oauth]
        client_id = "public"
        "#,
    );
    assert_eq!(config.oauth.public_url.as_ref().map(url::Url::as_str), Some("https://credway.acme.example/"));
    let github = &config.oauth.clients["github-oauth"];
    let secret = github.secret.as_ref().map(ExposeSecret::expose_secret);
    assert_eq!((github.id.as_str(), secret, github.key.is_none()), ("Iv1.8a61", Some("hush"), true));
    assert!(config.oauth.clients["linear-oauth"].secret.is_none());
}

#[test]
fn the_secrets_of_oauth_clients_may_lie_in_files_and_are_not_shown() {
    let dir = TempDir::new().unwrap();
    let holder = dir.path().join("secret");
    std::fs::write(&holder, format!("{CANARY}\n")).unwrap();
    let file = format!(
        "[oauth.clients.google]\nclient_id = \"g\"\nclient_secret_file = {holder:?}\n\
         [oauth.clients.box-oauth]\nclient_id = \"b\"\nprivate_key_file = {holder:?}\nkey_id = \"k1\""
    );
    let loaded = of_file(&file).unwrap();
    let clients = &loaded.config.oauth.clients;
    assert_eq!(clients["google"].secret.as_ref().unwrap().expose_secret(), CANARY);
    let key = clients["box-oauth"].key.as_ref().unwrap();
    assert_eq!((key.pem.expose_secret(), key.id.as_deref()), (CANARY, Some("k1")));
    let shown = |path: &str| loaded.settings.iter().find(|setting| setting.path == path).unwrap().shown.clone();
    assert_eq!(shown("oauth.clients.google"), "client g, a secret");
    assert_eq!(shown("oauth.clients.box-oauth"), "client b, a private key");
    assert!(!format!("{loaded:?}").contains("CANARY7d1f"));
}

#[test]
fn a_secret_may_lie_in_a_file_named_by_the_environment() {
    let dir = TempDir::new().unwrap();
    let holder = dir.path().join("url");
    std::fs::write(&holder, "postgres://u:pw@h/d\n").unwrap();
    let file = "[database]\nurl = \"sqlite:/elsewhere\"";
    let loaded = with(file, &[("CREDWAY_DATABASE_URL_FILE", holder.to_str().unwrap())], &[]).unwrap();
    let Database::Postgres { url } = &loaded.config.database else { panic!("the file's own URL won") };
    assert_eq!(url.expose_secret(), "postgres://u:pw@h/d");
    assert!(loaded.settings.iter().all(|setting| setting.path != "database.url"), "an overruled setting is shown");
}

#[test]
fn variables_of_the_command_line_and_of_others_are_no_settings() {
    let ours =
        ["CREDWAY_CONFIG", "CREDWAY_SERVER", "CREDWAY_TOKEN", "CREDWAY_PROJECT", "CREDWAY_TEST_POSTGRES", "PATH"];
    let environment: Vec<(&str, &str)> = ours.iter().map(|name| (*name, "x")).collect();
    with("", &environment, &[]).unwrap();
}

#[test]
fn opentelemetrys_own_variable_is_honoured_where_ours_is_absent() {
    let theirs = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:4317");
    let ours = ("CREDWAY_TELEMETRY_OTLP_ENDPOINT", "http://ours:4317");
    let endpoint = |environment: &[(&str, &str)]| with("", environment, &[]).unwrap().config.telemetry.otlp_endpoint;
    assert_eq!(endpoint(&[theirs]).as_deref(), Some("http://theirs:4317/"));
    assert_eq!(endpoint(&[ours, theirs]).as_deref(), Some("http://ours:4317/"));
}

#[test]
fn a_file_that_cannot_be_read_is_said_plainly() {
    let dir = TempDir::new().unwrap();
    let latin = dir.path().join("latin1.toml");
    std::fs::write(&latin, b"# ok\ndata_dir = \"/srv/\xe9\"").unwrap();
    let large = dir.path().join("large.toml");
    std::fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    let table = [
        (dir.path().join("absent.toml"), " 0: the file does not exist;"),
        (dir.path().to_owned(), " 0: is a directory, not a file;"),
        (latin, " 2: the file is not UTF-8 text;"),
        (large, " 0: the file is larger than 1 MiB;"),
    ];
    for (file, said) in table {
        let lines = mistakes(load(&Sources { file: Some(file), ..Sources::default() }));
        assert!(lines.starts_with(said), "{lines}");
    }
}
