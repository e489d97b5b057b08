//! Programs of pickles, one for each way to hide a call, and what is found in them.

use bytes::Bytes;
use model_formats::pickle::{self, AllowList};
use model_formats::{Bundle, BundleFile, Limits, Report, Verdict, inspect, rules};
use std::collections::HashSet;
use std::sync::Arc;

fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![
        0x8c,
        u8::try_from(text.len()).expect("texts of the test are short"),
    ];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn global(module: &str, name: &str) -> Vec<u8> {
    [text(module), text(name), vec![0x93]].concat()
}

fn program(parts: &[&[u8]]) -> Bytes {
    [&[0x80, 4][..], &parts.concat(), b"."].concat().into()
}

fn judge(path: &str, bytes: &Bytes, limits: &Limits) -> Report {
    let file = BundleFile {
        path,
        source: bytes,
    };
    inspect(&Bundle::new(vec![file]), limits)
}

#[track_caller]
fn check(path: &str, bytes: &Bytes, rule: &str) {
    let report = judge(path, bytes, &Limits::default());
    assert!(
        report.findings.iter().any(|finding| finding.rule == rule),
        "{path} should break {rule}: {report:?}"
    );
    assert_ne!(report.verdict, Verdict::Clean);
}

#[test]
fn a_name_outside_of_the_allow_list_is_unsafe_however_it_is_spelt() {
    let rule = "pickle.global-not-allowed";
    let system = global("os", "system");
    check("a.pkl", &program(&[&system, &text("x"), b"\x85R"]), rule);
    check(
        "a.pkl",
        &program(&[&global("numpy", "os.system"), b")R"]),
        rule,
    );
    check(
        "a.pkl",
        &program(&[&text("os"), b"\x940", &text("system"), b"h\x00", b"\x93"]),
        rule,
    );
    check(
        "a.pkl",
        &Bytes::from_static(b"cos\nsystem\n(S'x'\ntR."),
        rule,
    );
    check(
        "notes.txt",
        &Bytes::from_static(b"cos\nsystem\n(S'x'\ntR."),
        rule,
    );
    check(
        "notes.txt",
        &Bytes::from_static(b"(S'x'\nios\nsystem\n."),
        rule,
    );
    check("a.pkl", &Bytes::from_static(b"\x80\x02\x82\x01."), rule);
}

#[test]
fn allowed_names_are_not_allowed_every_use() {
    let rule = "pickle.call-not-allowed";
    let svc = global("sklearn.svm._classes", "SVC");
    let booster = global("lightgbm.basic", "Booster");
    check(
        "a.pkl",
        &program(&[&booster, &text("/etc/passwd"), b"\x85R"]),
        rule,
    );
    check(
        "a.pkl",
        &program(&[
            &global("_codecs", "encode"),
            &text("x"),
            &text("rot13"),
            b"\x86R",
        ]),
        rule,
    );
    check(
        "a.pkl",
        &program(&[&global("collections", "defaultdict"), &booster, b"\x85R"]),
        rule,
    );
    check(
        "a.pkl",
        &program(&[
            &global("builtins", "getattr"),
            &global("numpy", "ndarray"),
            &text("tofile"),
            b"\x86R",
        ]),
        rule,
    );
    check(
        "a.pkl",
        &program(&[
            &svc,
            b")\x81}",
            &text("__setstate__"),
            &global("numpy", "log"),
            b"sb",
        ]),
        rule,
    );
    check(
        "a.pkl",
        &program(&[
            &global("numpy.random._pickle", "__randomstate_ctor"),
            &text("x"),
            &booster,
            b"\x86R",
        ]),
        rule,
    );
}

#[test]
fn programs_that_no_pickler_writes_are_malformed() {
    let rule = "pickle.not-canonical";
    check("a.pkl", &program(&[b"}2\x86"]), rule);
    check("a.pkl", &program(&[b"N0N"]), rule);
    check("a.pkl", &Bytes::from_static(b"\x80\x02}q\x05."), rule);
    check("a.pkl", &Bytes::from_static(b"\x80\x04N.junk"), rule);
    check(
        "a.pkl",
        &Bytes::from_static(b"\x80\x04\x95\x09\0\0\0\0\0\0\0N."),
        rule,
    );
    check(
        "a.pkl",
        &program(&[&b"]".repeat(600), &b"a".repeat(599)]),
        "pickle.bomb",
    );
    check(
        "a.pkl",
        &Bytes::from_static(b"\x80\x04]"),
        "pickle.truncated",
    );
}

#[test]
fn a_function_in_the_pickle_is_code_and_calling_it_is_unsafe() {
    let make = global("cloudpickle.cloudpickle", "_make_function");
    let carried = judge("a.pkl", &program(&[&make, b"N}\x86R"]), &Limits::default());
    assert_eq!(carried.verdict, Verdict::ContainsCode);
    let called = judge(
        "a.pkl",
        &program(&[&make, b"N}\x86R)R"]),
        &Limits::default(),
    );
    assert_eq!(called.verdict, Verdict::Unsafe);
}

#[test]
fn a_deployment_can_allow_names_of_its_own() {
    let bytes = program(&[&global("our_models", "Scorer"), b")\x81"]);
    assert_eq!(
        judge("a.pkl", &bytes, &Limits::default()).verdict,
        Verdict::Unsafe
    );
    let mut list = AllowList::built_in().clone();
    list.extend("class our_models Scorer")
        .expect("the line is one of the list");
    let limits = Limits {
        allow_list: Some(Arc::new(list)),
        ..Limits::default()
    };
    let report = judge("a.pkl", &bytes, &limits);
    assert_eq!(report.verdict, Verdict::Clean, "{report:?}");
    assert_ne!(report.rules_digest, rules::digest(&Limits::default()));
}

#[test]
fn every_line_of_the_allow_list_can_be_read() {
    let list = AllowList::built_in();
    assert!(list.len() > 3000);
    for line in pickle::ALLOW_LIST.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let (Some(_), Some(module)) = (words.next(), words.next()) else {
            continue;
        };
        for name in words {
            assert!(list.find(module, name).is_some(), "{module} {name}");
        }
    }
    for dangerous in [
        "eval",
        "exec",
        "open",
        "__import__",
        "compile",
        "map",
        "filter",
    ] {
        assert!(list.find("builtins", dangerous).is_none());
    }
    assert!(list.find("torch", "load").is_none());
    assert!(list.find("numpy", "load").is_none());
}

#[test]
fn rule_ids_are_unique_and_say_what_to_do() {
    let mut ids = HashSet::new();
    for rule in rules::all() {
        assert!(ids.insert(rule.id), "{} is declared twice", rule.id);
        assert!(
            rule.why.ends_with('.') && rule.fix.ends_with('.'),
            "{}",
            rule.id
        );
        assert_ne!(rule.id, "");
    }
}
