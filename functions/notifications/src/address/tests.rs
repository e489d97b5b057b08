//! What the guard lets through, and what not.

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

/// Every spelling of an IPv4 address that some parser takes for one, and every IPv6 form that carries it.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let whole = address.to_bits();
    let (high, low) = (whole >> 16, whole & 0xffff);
    let tail = whole & 0x00ff_ffff;
    let mut hosts = vec![
        address.to_string(),
        format!("{address}."),
        format!("{whole}"),
        format!("0x{whole:x}"),
        format!("0X{whole:08X}"),
        format!("0{whole:o}"),
        format!("{a}.{tail}"),
        format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x{a:x}.0{b:o}.{c}.{d}"),
        format!("{a}%2E{b}%2E{c}%2E{d}"),
        format!("{a}。{b}．{c}｡{d}"),
    ];
    for form in [
        format!("::ffff:{address}"),
        format!("::ffff:{high:x}:{low:x}"),
        format!("0:0:0:0:0:ffff:{high:x}:{low:x}"),
        format!("::{high:x}:{low:x}"),
        format!("::ffff:0:{high:x}:{low:x}"),
        format!("64:ff9b::{high:x}:{low:x}"),
        format!("64:ff9b:1::{high:x}:{low:x}"),
        format!("2002:{high:x}:{low:x}::1"),
        format!("2001:0:{high:x}:{low:x}::1"),
        format!("2001::{:x}:{:x}", high ^ 0xffff, low ^ 0xffff),
        format!("fe80::5efe:{high:x}:{low:x}"),
    ] {
        hosts.push(format!("[{form}]"));
    }
    hosts
}

#[test]
fn every_spelling_of_an_address_inside_is_refused() {
    let inside = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.254",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.8.9.10",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.254",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.254",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
    ];
    let mut count = 0;
    for address in inside {
        for host in spellings(address.parse().unwrap()) {
            for url in [
                format!("https://{host}/"),
                format!("https://{host}:8443/hook?a=b"),
            ] {
                assert!(parse_url(&url, false).is_err(), "{url} must be refused");
                count += 1;
            }
        }
    }
    assert!(count >= 1_000, "{count}");
}

#[test]
fn every_spelling_of_a_public_address_is_judged_by_where_it_leads() {
    // Mapped and translated forms lead to the address that they carry; tunnels and old forms are refused as a whole.
    let allowed = spellings("93.184.215.14".parse().unwrap())
        .into_iter()
        .filter(|host| parse_url(&format!("https://{host}/"), false).is_ok())
        .count();
    assert_eq!(allowed, 13 + 4);
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
