//! `credway dev`: from nothing to a resolved credential, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;

use crate::support::program::{Home, until};

#[test]
fn dev_prints_a_resolved_credential_and_what_to_try_next() {
    let home = Home::new();
    let dev = home.dev("");
    until("it has printed all", || dev.printed().contains("Stop: Ctrl-C"));
    let printed = dev.printed();
    for told in ["credway resolve demo-echo --reveal", "DEMO_API_KEY  demo-production-key", "Try in another terminal"] {
        assert!(printed.contains(told), "{printed}");
    }
}

#[test]
fn the_ready_file_says_where_the_daemon_is_and_only_we_can_read_it() {
    let home = Home::new();
    let dev = home.dev("");
    let keys: Vec<&str> = dev.ready.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["data_dir", "grpc", "http", "pid", "socket", "token"]);
    for address in [dev.at("http"), dev.at("grpc")] {
        assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    }
    assert!(dev.at("token").starts_with("pat_"));
    let mode = fs::metadata(home.path("ready.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_dev_said_to_try_works() {
    let home = Home::new();
    let dev = home.dev("");
    until("it has printed all", || dev.printed().contains("Stop: Ctrl-C"));
    let tries: Vec<String> = dev
        .printed()
        .lines()
        .filter_map(|line| line.strip_prefix("  credway ")?.split("   ").next().map(|line| format!("credway {line}")))
        .collect();
    assert_eq!(tries.len(), 4, "{}", dev.printed());
    for line in tries {
        home.must(&line);
    }
}

#[test]
fn stopped_dev_leaves_nothing_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let dev = home.dev("");
        let (data, note) = (dev.at("data_dir").to_owned(), home.path("run/credway/dev.json"));
        assert!(fs::exists(&data).unwrap() && note.exists());
        dev.signal(signal);
        assert_eq!(dev.stop(), Some(0));
        assert!(!fs::exists(&data).unwrap(), "{data} is left");
        assert!(!note.exists(), "the note is left");
        assert!(!home.path("ready.json").exists(), "the ready file is left");
        let told = home.refused(9, "credway resolve demo-echo");
        assert!(told.contains("credway dev"), "{told}");
    }
}

#[test]
fn the_data_of_dev_stay_where_it_is_told_to_keep_them() {
    let home = Home::new();
    let dev = home.dev("--data-dir kept");
    let before = home.must("credway connection list");
    home.must("printf typed | credway connection update 'Demo production' --secret-file api_key=-");
    assert_eq!(dev.stop(), Some(0));
    let _dev = home.dev("--data-dir kept");
    assert_eq!(home.must("credway connection list"), before);
}

#[test]
fn a_second_dev_on_the_same_data_is_refused_and_the_first_one_goes_on() {
    let home = Home::new();
    let _dev = home.dev("--data-dir kept");
    let tokens = home.must("credway token list");
    let again = "credway dev --http-addr 127.0.0.1:0 --grpc-addr 127.0.0.1:0";
    let told = home.refused(1, &format!("{again} --data-dir kept"));
    assert!(told.contains("kept/credway.sock"), "{told}");
    assert_eq!(home.must("credway token list"), tokens, "the first one's token still counts");
    home.must("credway resolve demo-echo");
}

#[test]
fn a_killed_dev_stands_in_nobodys_way() {
    let home = Home::new();
    drop(home.dev("--data-dir kept"));
    assert!(home.path("run/credway/dev.json").exists() && home.path("kept/credway.sock").exists());
    home.refused(9, "credway resolve demo-echo");
    let _dev = home.dev("--data-dir kept");
    home.must("credway resolve demo-echo");
}

#[test]
fn dev_listens_on_loopback_only() {
    let home = Home::new();
    let told = home.refused(2, "credway dev --http-addr 0.0.0.0:0");
    assert!(told.contains("dev does not listen on 0.0.0.0:0") && told.contains("credway serve"), "{told}");
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let told = home.refused(1, &format!("credway dev --http-addr {address} --grpc-addr 127.0.0.1:0"));
    assert!(told.contains(&address.to_string()), "{told}");
}
