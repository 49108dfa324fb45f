//! Which addresses are connected to when a user says where: those of the public internet, and what the config allows beside.
//!
//! The rule holds for addresses, not for names, and so it is asked after DNS; whoever connects uses the address that was asked
//! about, never the name again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use url::Host;

use crate::config::{self, EgressRule};
use crate::limits;

/// What is reached.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    allow: Arc<[EgressRule]>,
    hosts: Arc<BTreeMap<String, SocketAddr>>,
}

/// Why an address is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    Unspecified,
    Loopback,
    Private,
    LinkLocal,
    /// Where clouds tell machines their secrets.
    Metadata,
    Multicast,
    Reserved,
}

impl Inner {
    /// What it is called in a sentence: `a private address`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "an address of cloud metadata",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
        }
    }

    /// Whether the name of a host is not enough to allow it: whoever controls the name could point it there.
    fn needs_a_network_rule(self) -> bool {
        matches!(self, Self::Metadata | Self::LinkLocal | Self::Unspecified | Self::Multicast)
    }
}

/// The addresses of a host, each of which may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub addresses: Vec<SocketAddr>,
}

/// Why there is nowhere to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// DNS knows no address.
    Unknown,
    /// DNS gave no answer.
    Silent,
    Inner(Inner),
}

impl Egress {
    pub fn new(settings: &config::Egress) -> Self {
        Self { allow: settings.allow.as_slice().into(), hosts: Arc::new(settings.hosts.clone()) }
    }

    /// Finds a host's addresses and checks them. If one of them may not be reached, none is: a name with two kinds of
    /// addresses is somebody's trick.
    pub async fn find(&self, host: &Host<&str>, port: u16) -> Result<Checked, NoWay> {
        let addresses = match *host {
            Host::Ipv4(address) => vec![SocketAddr::new(address.into(), port)],
            Host::Ipv6(address) => vec![SocketAddr::new(address.into(), port)],
            Host::Domain(name) => match self.hosts.get(name) {
                Some(address) => vec![*address],
                None => looked_up(name, port).await?,
            },
        };
        let name = match host {
            Host::Domain(name) => Some(*name),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        };
        match addresses.iter().find_map(|address| self.refuses(name, address.ip())) {
            Some(inner) => Err(NoWay::Inner(inner)),
            None => Ok(Checked { addresses }),
        }
    }

    /// Why an address of the host `name` may not be connected to; `None` if it may.
    pub fn refuses(&self, name: Option<&str>, address: IpAddr) -> Option<Inner> {
        let inner = inner(address)?;
        let name = name.map(|name| name.trim_end_matches('.'));
        // An address in another's clothes is what it is: `::ffff:10.0.0.1` is allowed by `10.0.0.0/8`.
        let plain = unwrapped(address);
        let is_allowed = self.allow.iter().any(|rule| match rule {
            EgressRule::Network(network) => network.contains(&address) || network.contains(&plain),
            EgressRule::Host(allowed) => {
                !inner.needs_a_network_rule() && name.is_some_and(|name| name.eq_ignore_ascii_case(allowed))
            }
        });
        (!is_allowed).then_some(inner)
    }
}

async fn looked_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, NoWay> {
    let found = tokio::time::timeout(limits::PROBE_DNS_DEADLINE, tokio::net::lookup_host((name, port))).await;
    let mut addresses: Vec<SocketAddr> = found.map_err(|_| NoWay::Silent)?.map_err(|_| NoWay::Unknown)?.collect();
    addresses.dedup();
    addresses.truncate(limits::PROBE_ADDRESSES_MAX);
    if addresses.is_empty() { Err(NoWay::Unknown) } else { Ok(addresses) }
}

/// What an address is, if it is not on the public internet.
pub fn inner(address: IpAddr) -> Option<Inner> {
    match unwrapped(address) {
        IpAddr::V4(address) => inner_v4(address),
        IpAddr::V6(address) => inner_v6(address),
    }
}

/// The IPv4 address that an IPv6 address stands for, where gateways or sockets take it for one.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        // Mapped (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // IPv4-compatible (RFC 4291); what is below ::1:0 are `::` and `::1` themselves, and nothing else.
        [0, 0, 0, 0, 0, 0] if g != 0 => v4(g, h),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Networks of IPv4 that are not public (IANA's special-purpose registry), the narrower first.
const INNER_V4: [(Ipv4Net, Inner); 19] = [
    (v4([169, 254, 169, 254], 32), Inner::Metadata),
    (v4([169, 254, 170, 2], 32), Inner::Metadata),
    // Alibaba's, Oracle's and Azure's: the first two lie in shared networks, the last in a public one.
    (v4([100, 100, 100, 200], 32), Inner::Metadata),
    (v4([192, 0, 0, 192], 32), Inner::Metadata),
    (v4([168, 63, 129, 16], 32), Inner::Metadata),
    (v4([0, 0, 0, 0], 8), Inner::Unspecified),
    (v4([127, 0, 0, 0], 8), Inner::Loopback),
    (v4([169, 254, 0, 0], 16), Inner::LinkLocal),
    (v4([10, 0, 0, 0], 8), Inner::Private),
    (v4([172, 16, 0, 0], 12), Inner::Private),
    (v4([192, 168, 0, 0], 16), Inner::Private),
    (v4([100, 64, 0, 0], 10), Inner::Private),
    (v4([192, 0, 0, 0], 24), Inner::Reserved),
    (v4([192, 0, 2, 0], 24), Inner::Reserved),
    (v4([198, 18, 0, 0], 15), Inner::Reserved),
    (v4([198, 51, 100, 0], 24), Inner::Reserved),
    (v4([203, 0, 113, 0], 24), Inner::Reserved),
    (v4([224, 0, 0, 0], 4), Inner::Multicast),
    (v4([240, 0, 0, 0], 4), Inner::Reserved),
];

/// The same of IPv6, where all that is public lies in `2000::/3`.
const INNER_V6: [(Ipv6Net, Inner); 11] = [
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Inner::Metadata),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), Inner::Metadata),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Inner::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Inner::Loopback),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Inner::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Inner::Private),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Inner::Private),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Inner::Multicast),
    // Teredo tunnels, and documentation.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Inner::Reserved),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Inner::Reserved),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Inner::Reserved),
];

const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

fn inner_v4(address: Ipv4Addr) -> Option<Inner> {
    INNER_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, inner)| *inner)
}

fn inner_v6(address: Ipv6Addr) -> Option<Inner> {
    let known = INNER_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, inner)| *inner);
    known.or_else(|| (!PUBLIC_V6.contains(&address)).then_some(Inner::Reserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Egress {
        let rule = |text: &str| match text.parse() {
            Ok(network) => EgressRule::Network(network),
            Err(_) => EgressRule::Host(text.to_owned()),
        };
        let allow = text.split_whitespace().map(rule).collect();
        Egress::new(&config::Egress { allow, ..config::Egress::default() })
    }

    #[test]
    fn only_public_addresses_are_outside() {
        let table = [
            ("0.0.0.0", Some(Inner::Unspecified)),
            ("0.1.2.3", Some(Inner::Unspecified)),
            ("127.0.0.1", Some(Inner::Loopback)),
            ("127.255.255.254", Some(Inner::Loopback)),
            ("10.0.0.1", Some(Inner::Private)),
            ("172.16.0.1", Some(Inner::Private)),
            ("172.31.255.255", Some(Inner::Private)),
            ("172.32.0.0", None),
            ("192.168.0.1", Some(Inner::Private)),
            ("100.64.0.1", Some(Inner::Private)),
            ("100.128.0.0", None),
            ("169.254.0.1", Some(Inner::LinkLocal)),
            ("169.254.169.254", Some(Inner::Metadata)),
            ("169.254.170.2", Some(Inner::Metadata)),
            ("100.100.100.200", Some(Inner::Metadata)),
            ("192.0.0.192", Some(Inner::Metadata)),
            ("168.63.129.16", Some(Inner::Metadata)),
            ("198.19.0.1", Some(Inner::Reserved)),
            ("203.0.113.7", Some(Inner::Reserved)),
            ("224.0.0.1", Some(Inner::Multicast)),
            ("255.255.255.255", Some(Inner::Reserved)),
            ("1.1.1.1", None),
            ("8.8.8.8", None),
            ("::", Some(Inner::Unspecified)),
            ("::1", Some(Inner::Loopback)),
            ("fe80::1", Some(Inner::LinkLocal)),
            ("fc00::1", Some(Inner::Private)),
            ("fd12:3456::1", Some(Inner::Private)),
            ("fd00:ec2::254", Some(Inner::Metadata)),
            ("fd20:ce::254", Some(Inner::Metadata)),
            ("ff02::1", Some(Inner::Multicast)),
            ("2001:db8::1", Some(Inner::Reserved)),
            ("2001::1", Some(Inner::Reserved)),
            ("100::1", Some(Inner::Reserved)),
            ("2606:4700::1111", None),
            ("2a00:1450:4001::1", None),
            ("::ffff:169.254.169.254", Some(Inner::Metadata)),
            ("::ffff:127.0.0.1", Some(Inner::Loopback)),
            ("::ffff:10.1.2.3", Some(Inner::Private)),
            ("::ffff:8.8.8.8", None),
            ("::127.0.0.1", Some(Inner::Loopback)),
            ("::ffff:0:10.0.0.1", Some(Inner::Private)),
            ("64:ff9b::169.254.169.254", Some(Inner::Metadata)),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::8.8.8.8", Some(Inner::Reserved)),
            ("2002:a9fe:a9fe::1", Some(Inner::Metadata)),
            ("2002:7f00:1::", Some(Inner::Loopback)),
        ];
        for (text, expected) in table {
            assert_eq!(inner(text.parse().unwrap()), expected, "{text}");
        }
    }

    /// Every IPv4 address of a coarse walk through all of them, in each of its clothes.
    #[test]
    fn an_address_in_others_clothes_is_what_it_is_without_them() {
        for number in (0..=u32::MAX).step_by(65_521) {
            let plain = Ipv4Addr::from(number);
            let [a, b, c, d] = plain.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let clothes = [
                plain.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 1, 2, 3, 4, 5),
            ];
            for worn in clothes {
                assert_eq!(inner(worn.into()), inner(plain.into()), "{worn} for {plain}");
            }
        }
    }

    #[test]
    fn whatever_the_standard_library_knows_to_be_inside_is_inside() {
        for number in (0..=u32::MAX).step_by(65_521) {
            let address = Ipv4Addr::from(number);
            let is_inside = address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.is_documentation()
                || address.is_multicast();
            assert!(!is_inside || inner(address.into()).is_some(), "{address} is taken for public");
        }
        // The first sixteen bits of IPv6, of which an eighth are public.
        for first in 0..=u16::MAX {
            let address = Ipv6Addr::new(first, 0x1111, 0, 0, 0, 0, 0, 1);
            let is_public = (0x2000..0x4000).contains(&first);
            assert!(is_public || inner(address.into()).is_some(), "{address} is taken for public");
        }
    }

    #[test]
    fn what_is_allowed_is_reached_and_nothing_beside_it() {
        let egress = rules("10.0.0.0/8 db.internal 169.254.169.254/32 fd00::/8");
        let table = [
            (None, "10.9.9.9", None),
            (None, "::ffff:10.9.9.9", None),
            (None, "192.168.0.1", Some(Inner::Private)),
            (None, "169.254.169.254", None),
            (None, "169.254.169.253", Some(Inner::LinkLocal)),
            (None, "fd00:ec2::254", None),
            (Some("db.internal"), "192.168.0.1", None),
            (Some("DB.Internal."), "192.168.0.1", None),
            (Some("db.internal"), "127.0.0.1", None),
            // Its name does not make a host a cloud's.
            (Some("db.internal"), "100.100.100.200", Some(Inner::Metadata)),
            (Some("db.internal"), "169.254.1.1", Some(Inner::LinkLocal)),
            (Some("evil.db.internal"), "192.168.0.1", Some(Inner::Private)),
            (Some("example.com"), "8.8.8.8", None),
        ];
        for (name, address, expected) in table {
            assert_eq!(egress.refuses(name, address.parse().unwrap()), expected, "{name:?} {address}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_their_addresses() {
        let nothing = Egress::default();
        let localhost = Host::Domain("localhost");
        assert_eq!(nothing.find(&localhost, 80).await, Err(NoWay::Inner(Inner::Loopback)));
        let found = rules("localhost").find(&localhost, 80).await.unwrap();
        assert!(found.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        assert_eq!(nothing.find(&Host::Domain("nothing.invalid"), 80).await, Err(NoWay::Unknown));
        let literal = Host::Ipv4(Ipv4Addr::new(169, 254, 169, 254));
        assert_eq!(nothing.find(&literal, 80).await, Err(NoWay::Inner(Inner::Metadata)));
    }
}
