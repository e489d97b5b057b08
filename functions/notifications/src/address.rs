//! Where a delivery may go: rules for URLs, and for the addresses that their hosts resolve to.
//!
//! A subscription's URL is the caller's choice, the request comes from inside: without these rules it would be a way
//! to the metadata service, to loopback and to private networks. Names are resolved here, every address is checked,
//! and the connection is made to a checked address, so that a name which changes its answer gains nothing.

use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use shared::{Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

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

/// Asks for the addresses of a name.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, Option<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names for the client, and refuses those that lead anywhere but to the public internet.
///
/// The client connects to what this answers and asks nobody else, so that the checked address is the one it talks to.
#[derive(Clone)]
pub(crate) struct PublicResolver {
    /// Whether `localhost` may be resolved, to loopback only.
    pub(crate) allow_loopback: bool,
    lookup: Lookup,
}

impl PublicResolver {
    /// A resolver that asks the system.
    pub(crate) fn of_the_system(allow_loopback: bool) -> Self {
        Self {
            allow_loopback,
            lookup: Arc::new(|host| {
                Box::pin(async move {
                    let found = tokio::net::lookup_host((host.as_str(), 0)).await.ok()?;
                    Some(found.collect())
                })
            }),
        }
    }
}

#[cfg(test)]
impl PublicResolver {
    /// A resolver that asks a test.
    pub(crate) fn with_lookup(
        allow_loopback: bool,
        answer: impl Fn(&str) -> Option<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            allow_loopback,
            lookup: Arc::new(move |host| {
                let answer = answer(&host);
                Box::pin(async move { answer })
            }),
        }
    }
}

impl fmt::Debug for PublicResolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PublicResolver")
    }
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_loopback = self.allow_loopback;
        let lookup = Arc::clone(&self.lookup);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = lookup(host.clone()).await.ok_or(Refused::UnknownHost)?;
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
mod tests;
