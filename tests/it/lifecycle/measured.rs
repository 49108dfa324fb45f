//! F7: the figures by which a daemon is watched. Spool and refresh outcomes come with what spools and refreshes.

use credway::clock::Clock;

use crate::support::answers::http_get;
use crate::support::cast::{ACME, World};

/// What must be told, and the metric that tells it.
const WANTED: [(&str, &str, &str); 11] = [
    ("hits", "counter", "credway_secret_cache_hits_total"),
    ("misses", "counter", "credway_secret_cache_misses_total"),
    ("coalesced", "counter", "credway_secret_cache_coalesced_total"),
    ("upstream reads by cause and outcome", "counter", "credway_secret_store_reads_total"),
    ("stale served", "counter", "credway_secret_stale_served_total"),
    ("greatest age of those", "gauge", "credway_secret_stale_age_max_seconds"),
    ("life left of our own token", "gauge", "credway_secret_store_token_ttl_seconds"),
    ("breaker, by secret", "gauge", "credway_secrets_in_backoff"),
    ("breaker, by backend", "gauge", "credway_backend_up"),
    ("lag of the revocation channel", "gauge", "credway_change_bound_seconds"),
    ("changes that came by it", "counter", "credway_changes_applied_total"),
];

#[tokio::test]
async fn f7_every_figure_that_alerts_need_is_there_with_its_help() {
    let world = World::postgres_and_openbao(ACME).await;
    let sidecar = world.sidecar(Clock::System).await;
    sidecar.caught_up().await;
    let (_, text) = http_get(sidecar.addresses().http.unwrap(), "/metrics").await;
    for (what, kind, name) in WANTED {
        let help = text.lines().find_map(|line| line.strip_prefix("# HELP ")?.strip_prefix(name)?.strip_prefix(' '));
        assert!(help.is_some_and(|help| help.len() > 20), "{what}: {name} is not explained");
        assert!(text.lines().any(|line| line == format!("# TYPE {name} {kind}")), "{what}: {name} is no {kind}");
    }
    for series in [
        "credway_secret_store_reads_total{cause=\"caller\",outcome=\"ok\"} 0",
        "credway_secret_store_reads_total{cause=\"background\",outcome=\"unavailable\"} 0",
        "credway_backend_up{backend=\"database\"} 1",
        "credway_backend_up{backend=\"secret_store\"} 1",
        "credway_change_bound_seconds 2",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
    }
}
