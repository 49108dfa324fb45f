//! Starts that must fail: somebody else is there already, or the daemon would be open to the network.

use crate::support::daemon::{Home, key_of};

#[tokio::test]
async fn a_socket_or_port_in_use_stops_the_second_daemon_and_not_the_first() {
    let first = Home::new();
    first.config(&[]);
    first.manifest(&[("a", "key-a")]);
    first.apply().await.ok();
    let daemon = first.start().await;
    let second = Home::new();
    let taken = [
        ("grpc.socket", daemon.address("socket")),
        ("grpc.address", daemon.address("grpc")),
        ("http.address", daemon.address("http")),
    ];
    for (setting, address) in taken {
        second.config(&[(setting, address)]);
        second.serve().await.refused(1, &["error[START_FAILED]", address]);
        assert!(!second.path("data/credway.db").exists(), "it began its work although {setting} is in use");
    }
    assert_eq!(key_of(&mut daemon.client(&first.token()).await, "a").await.unwrap(), "key-a");
}

#[tokio::test]
async fn plaintext_off_loopback_never_starts() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8421"] {
        let home = Home::new();
        home.config(&[("grpc.address", address)]);
        home.serve().await.refused(2, &["error[CONFIG]", "grpc.address", "is off loopback and needs [grpc.tls]"]);
        assert!(!home.path("data/credway.db").exists());
    }
}
