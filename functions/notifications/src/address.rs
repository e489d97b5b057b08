//! Where a delivery may go: rules for URLs, and for the addresses that their hosts resolve to.
//!
//! A subscription's URL is the caller's choice, the request comes from inside: without these rules it would be a way
//! to the metadata service, to loopback and to private networks. Names are resolved here, every address is checked,
//! and the connection is made to a checked address, so that a name which changes its answer gains nothing.

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use shared::{Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest URL of a subscription, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Checks the URL of a subscription; what its name resolves to is checked when a delivery connects.
pub(crate) fn parse_url(text: &str, allow_loopback: bool) -> Result<Url> {
    let refuse = |problem: &str| Err(Error::invalid("url", format!("the URL {problem}")));
    if text.len() > MAX_URL_BYTES {
        return refuse(&format!(
            "has {} bytes; use at most {MAX_URL_BYTES}",
            text.len()
        ));
    }
    // The parser would drop these silently; what was stored would not be what was asked for.
    if text
        .chars()
        .any(|character| character.is_control() || character.is_whitespace() || character == '\\')
    {
        return refuse("contains a space, a control or a backslash; percent-encode it");
    }
    let Ok(url) = Url::parse(text) else {
        return refuse("is not valid; write one such as `https://example.com/hook`");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("contains a user name or a password; use the signature to tell who sends");
    }
    if url.fragment().is_some() {
        return refuse("contains a fragment, which is never sent; remove it");
    }
    if url.port() == Some(0) {
        return refuse("names port 0; use another port");
    }
    let Some(host) = url.host_str() else {
        return refuse("names no host; write one such as `https://example.com/hook`");
    };
    let is_loopback = names_loopback(host);
    match url.scheme() {
        "https" => {}
        "http" if allow_loopback && is_loopback => {}
        "http" => return refuse("begins with `http:`; use `https:`"),
        _ => return refuse("is of another kind than `https:`; use `https:`"),
    }
    if is_loopback {
        if !allow_loopback {
            return refuse("names this machine; use a public host");
        }
    } else if literal(host).is_some_and(|address| !is_public(address)) {
        return refuse("names an address that is not public; use a public host");
    }
    Ok(url)
}

/// Whether a host is this machine, by its name or its address.
fn names_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || literal(host).is_some_and(|address| address.to_canonical().is_loopback())
}

/// The address that a URL's host is, if it is no name; the URL parser has brought it into its plain form.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether an address is one of the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Blocks that are not the public internet: IANA's special-purpose registry, multicast, reserved, and one address that
/// is public but a cloud's host.
const SPECIAL_V4: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::UNSPECIFIED, 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by carriers"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "Azure's host"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, metadata"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relays"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (
        Ipv4Addr::new(224, 0, 0, 0),
        3,
        "multicast, reserved, broadcast",
    ),
];

/// Blocks within `2000::/3` that are not the public internet.
const SPECIAL_V6: &[(Ipv6Addr, u32, &str)] = &[
    (
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0),
        23,
        "protocol assignments: Teredo, benchmarks, ORCHID",
    ),
    (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        32,
        "documentation",
    ),
    (
        Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
        16,
        "6to4, which hides a v4 address",
    ),
    (
        Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0),
        20,
        "documentation",
    ),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_within =
        |network: Ipv4Addr, bits: u32| (address.to_bits() ^ network.to_bits()) >> (32 - bits) == 0;
    !SPECIAL_V4
        .iter()
        .any(|(network, bits, _)| is_within(*network, *bits))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    // NAT64: the last 32 bits are where it really goes.
    if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    let is_within =
        |network: Ipv6Addr, bits: u32| (address.to_bits() ^ network.to_bits()) >> (128 - bits) == 0;
    // Only 2000::/3 is handed out to the public. Not in it: unspecified, loopback, v4-compatible, local NAT64,
    // discard, segment routing, unique local (with AWS's metadata service), link-local, site-local, multicast.
    let global = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
    is_within(global, 3)
        && !SPECIAL_V6
            .iter()
            .any(|(network, bits, _)| is_within(*network, *bits))
}

/// Resolves names for the client, and refuses those that lead anywhere but to the public internet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicResolver {
    /// Whether `localhost` may be resolved, to loopback only.
    pub(crate) allow_loopback: bool,
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_loopback = self.allow_loopback;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0))
                .await
                .map_err(|_| Refused::UnknownHost)?
                .collect();
            check_answer(&host, &found, allow_loopback)?;
            Ok::<Addrs, _>(Box::new(found.into_iter()))
        })
    }
}

/// Checks all that a name resolved to; one forbidden address among public ones is a trick, not a mistake.
fn check_answer(host: &str, found: &[SocketAddr], allow_loopback: bool) -> Result<(), Refused> {
    if found.is_empty() {
        return Err(Refused::UnknownHost);
    }
    let is_allowed = |address: IpAddr| {
        if names_loopback(host) {
            allow_loopback && address.to_canonical().is_loopback()
        } else {
            is_public(address)
        }
    };
    if found.iter().all(|address| is_allowed(address.ip())) {
        Ok(())
    } else {
        Err(Refused::Forbidden)
    }
}

/// Why a name is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It does not resolve.
    UnknownHost,
    /// It resolves to an address that is not public.
    Forbidden,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::UnknownHost => "the host's name does not resolve",
            Self::Forbidden => "the host's name resolves to an address that is not public",
        })
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_lead_inside_are_refused() {
        for url in [
            // Kinds, user info, fragments, shapes.
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
            "javascript:alert(1)",
            "data:text/plain,x",
            "wss://example.com/",
            "//example.com/",
            "example.com/hook",
            "",
            "https://",
            "https:///",
            "https://user@example.com/",
            "https://user:secret@example.com/",
            "https://:secret@example.com/",
            "https://example.com@127.0.0.1/",
            "https://example.com/#x",
            "https://example.com:0/",
            "https://example.com:99999/",
            "https://exa mple.com/",
            "https://example.com/\r\nHost: x",
            "https://example.com/\tx",
            "https://example.com\\@127.0.0.1/",
            " https://example.com/",
            // Loopback in every spelling.
            "https://localhost/",
            "https://LOCALHOST/",
            "https://localhost./",
            "https://a.localhost/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://127.0.0.1./",
            "https://127.255.255.254/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://017700000001/",
            "https://%31%32%37.0.0.1/",
            "https://①②⑦.⓪.⓪.①/",
            "https://127。0。0。1/",
            "https://[::1]/",
            "https://[0:0:0:0:0:0:0:1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::127.0.0.1]/",
            "https://[2002:7f00:1::]/",
            // Unspecified.
            "https://0.0.0.0/",
            "https://0/",
            "https://[::]/",
            "https://[::ffff:0.0.0.0]/",
            // Private and shared.
            "https://10.0.0.1/",
            "https://10.255.255.255/",
            "https://172.16.0.1/",
            "https://172.31.255.255/",
            "https://192.168.1.1/",
            "https://100.64.0.1/",
            "https://100.127.255.255/",
            "https://0xa9fea9fe/",
            "https://[::ffff:10.0.0.1]/",
            "https://[::ffff:c0a8:101]/",
            "https://[64:ff9b::a00:1]/",
            "https://[64:ff9b:1::a00:1]/",
            "https://[fc00::1]/",
            "https://[fdff::1]/",
            // Link-local and metadata services.
            "https://169.254.169.254/latest/meta-data/",
            "https://169.254.170.2/v2/credentials",
            "https://2852039166/",
            "https://[::ffff:169.254.169.254]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[64:ff9b::169.254.169.254]/",
            "https://[2002:a9fe:a9fe::]/",
            "https://[fd00:ec2::254]/",
            "https://[fe80::1]/",
            "https://[fe80::1%25eth0]/",
            "https://[febf::1]/",
            "https://[fec0::1]/",
            "https://100.100.100.200/",
            "https://192.0.0.192/",
            "https://168.63.129.16/",
            // Multicast, broadcast, reserved, benchmarks, documentation, tunnels.
            "https://224.0.0.1/",
            "https://239.255.255.255/",
            "https://240.0.0.1/",
            "https://255.255.255.255/",
            "https://198.18.0.1/",
            "https://198.19.255.255/",
            "https://192.0.2.1/",
            "https://198.51.100.1/",
            "https://203.0.113.1/",
            "https://192.88.99.1/",
            "https://[ff02::1]/",
            "https://[ff0e::1]/",
            "https://[2001:db8::1]/",
            "https://[2001::1]/",
            "https://[2001:2::1]/",
            "https://[3fff::1]/",
            "https://[100::1]/",
            "https://[5f00::1]/",
        ] {
            assert!(parse_url(url, false).is_err(), "{url} must be refused");
        }
    }

    #[test]
    fn public_urls_are_allowed() {
        for url in [
            "https://example.com",
            "https://example.com/hook?token=x",
            "https://example.com:8443/hook",
            "https://EXAMPLE.com/",
            "https://bücher.example/",
            "https://93.184.215.14/",
            "https://172.15.0.1/",
            "https://172.32.0.1/",
            "https://100.63.255.255/",
            "https://100.128.0.1/",
            "https://192.0.1.1/",
            "https://198.20.0.1/",
            "https://223.255.255.255/",
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
            "https://[::ffff:93.184.215.14]/",
            "https://[64:ff9b::93.184.215.14]/",
            "https://notlocalhost/",
        ] {
            assert!(parse_url(url, false).is_ok(), "{url} must be allowed");
        }
        assert!(parse_url(&format!("https://example.com/{}", "x".repeat(2048)), false).is_err());
    }

    #[test]
    fn one_machine_may_hear_itself_and_nothing_else() {
        for url in [
            "http://localhost:9000/hook",
            "http://127.0.0.1:9000/",
            "http://[::1]:9000/",
            "https://localhost/",
        ] {
            assert!(parse_url(url, true).is_ok(), "{url} must be allowed");
        }
        for url in [
            "http://example.com/",
            "http://10.0.0.1/",
            "https://10.0.0.1/",
            "http://169.254.169.254/",
            "http://0.0.0.0/",
            "http://[64:ff9b::127.0.0.1]/",
            "http://user@localhost/",
        ] {
            assert!(parse_url(url, true).is_err(), "{url} must be refused");
        }
    }

    #[test]
    fn what_a_name_resolves_to_is_checked() {
        let check = |host: &str, found: &[&str], allow_loopback| {
            let found: Vec<SocketAddr> = found
                .iter()
                .map(|address| SocketAddr::new(address.parse().unwrap(), 0))
                .collect();
            check_answer(host, &found, allow_loopback)
        };
        assert_eq!(check("example.com", &["93.184.215.14"], false), Ok(()));
        assert_eq!(check("example.com", &[], false), Err(Refused::UnknownHost));
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::1",
            "fd00:ec2::254",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "0.0.0.0",
        ] {
            for allow_loopback in [false, true] {
                assert_eq!(
                    check("evil.example", &[inside], allow_loopback),
                    Err(Refused::Forbidden)
                );
                // One public address among them does not help.
                assert_eq!(
                    check("evil.example", &["93.184.215.14", inside], allow_loopback),
                    Err(Refused::Forbidden)
                );
            }
        }
        assert_eq!(
            check("localhost", &["127.0.0.1", "::1"], false),
            Err(Refused::Forbidden)
        );
        assert_eq!(check("localhost", &["127.0.0.1", "::1"], true), Ok(()));
        assert_eq!(
            check("localhost", &["10.0.0.1"], true),
            Err(Refused::Forbidden)
        );
    }
}
