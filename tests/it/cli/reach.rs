//! How commands reach a daemon and say who asks: by token, by uid, by certificate.

use super::home_with_world;
use crate::support::program::{Daemon, Home};
use crate::support::tls::Authority;

/// A daemon with these settings beside its data directory, and the world in it.
fn running_with(settings: &str) -> (Home, Daemon) {
    let home = home_with_world();
    let data = home.path("data");
    home.write("credway.toml", &format!("data_dir = {data:?}\n[http]\naddress = '127.0.0.1:0'\n{settings}"));
    home.must("credway apply -f world.yaml --config credway.toml");
    let daemon = home.start("credway serve --config credway.toml");
    (home, daemon)
}

const EXECUTOR: &str = "tenant = 'acme'\nproject = 'payments'\nrole = 'project_viewer'\nscopes = ['mcp:execute']\n";

#[test]
fn a_known_uid_needs_no_token() {
    let uid = rustix::process::getuid().as_raw();
    let (home, daemon) = running_with(&format!("[[callers]]\nuid = {uid}\n{EXECUTOR}"));
    home.must(&format!("credway resolve pay --server unix:{}", daemon.at("socket")));
}

#[test]
fn a_certificate_does_in_place_of_a_token() {
    let (ours, theirs) = (Authority::named("ours"), Authority::named("theirs"));
    let files = tempfile::tempdir().unwrap();
    ours.server().write_as_server(files.path());
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    write("ca.pem", &ours.pem);
    for (name, leaf) in
        [("ours", ours.client(&["executor.acme"], &[])), ("theirs", theirs.client(&["executor.acme"], &[]))]
    {
        write(&format!("{name}.pem"), &leaf.certificate);
        write(&format!("{name}.key"), &leaf.key);
    }
    let dir = files.path().display();
    let (home, daemon) = running_with(&format!(
        "[grpc]\naddress = '127.0.0.1:0'\n[grpc.tls]\ncert_file = '{dir}/server.pem'\nkey_file = '{dir}/server.key'\n\
         client_ca_file = '{dir}/ca.pem'\n[[callers]]\ncertificate_name = 'executor.acme'\n{EXECUTOR}"
    ));
    let port = daemon.at("grpc").rsplit(':').next().unwrap();
    let resolve = format!("cd {dir} && credway resolve pay --server https://localhost:{port}");
    home.must(&format!("{resolve} --tls-ca ca.pem --tls-cert ours.pem --tls-key ours.key"));
    for refused in ["--tls-ca ca.pem", "--tls-ca ca.pem --tls-cert theirs.pem --tls-key theirs.key", ""] {
        let told = home.refused(9, &format!("{resolve} {refused}"));
        assert!(told.starts_with("error[UNREACHABLE]"), "{told}");
    }
    home.refused(2, &format!("{resolve} --tls-ca absent.pem"));
    home.refused(2, &format!("{resolve} --tls-cert ours.pem"));
}

#[test]
fn a_token_of_the_whole_tenant_says_which_project_when_several_could_be_meant() {
    let (home, daemon) = running_with("");
    let create = "credway token create --name all --whole-tenant --role tenant_admin";
    home.must(&format!("{create} --config credway.toml --project acme/payments > all.token"));
    let resolve = format!("credway resolve pay --server unix:{} --token-file all.token", daemon.at("socket"));
    home.must(&resolve);
    home.write("second.yaml", "tenant: acme\nprojects: [{project: second, instances: [{name: pay, server: pay}]}]");
    home.must("credway apply -f second.yaml --config credway.toml");
    home.must(&format!("{resolve} --project payments"));
    let told = home.refused(1, &resolve);
    assert!(told.starts_with("error[INSTANCE_AMBIGUOUS]"), "{told}");
    home.refused(3, &format!("{resolve} --project nothing"));
}
