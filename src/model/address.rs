//! Addresses that secrets are sent to.

use url::{Host, Url};

/// Whether what is sent to `url` leaves this machine unencrypted.
pub fn crosses_a_network_in_the_clear(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => true,
    };
    url.scheme() == "http" && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_another_machine_does() {
        let table = [
            ("http://vault.example.com:8200", true),
            ("http://10.0.0.1", true),
            ("http://[fe80::1]", true),
            ("https://vault.example.com", false),
            ("http://127.0.0.1:8200", false),
            ("http://[::1]:1", false),
            ("http://localhost", false),
            ("unix:/run/credway.sock", false),
        ];
        for (url, expected) in table {
            assert_eq!(crosses_a_network_in_the_clear(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
