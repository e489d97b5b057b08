//! Stored reports are judged again without bytes; policies and advisories are judged from facts; the rules' table is
//! the one in the documentation.

use bytes::Bytes;
use model_formats::environment::Advisories;
use model_formats::pickle::AllowList;
use model_formats::rejudge::needs_reading;
use model_formats::{
    Bundle, BundleFile, Limits, Report, Requirements, Verdict, inspect, rejudge, rules,
};
use std::sync::Arc;

fn judge(files: &[(&str, &Bytes)], limits: &Limits) -> Report {
    let files = files
        .iter()
        .map(|&(path, source)| BundleFile { path, source })
        .collect();
    inspect(&Bundle::new(files), limits)
}

fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("texts of the test are short");
    [&[0x8c, length], text.as_bytes()].concat()
}

/// An object of `module.name` with one attribute.
fn object(module: &str, name: &str, attribute: &str) -> Bytes {
    let parts = [
        text(module),
        text(name),
        b"\x93)\x81}".to_vec(),
        text(attribute),
        b"K\x01sb".to_vec(),
    ];
    [b"\x80\x04", parts.concat().as_slice(), b"."]
        .concat()
        .into()
}

fn with(lines: &str) -> Limits {
    let mut list = AllowList::built_in().clone();
    list.extend(lines).expect("the lines are a list");
    Limits {
        allow_list: Some(Arc::new(list)),
        ..Limits::default()
    }
}

#[test]
fn a_name_that_the_list_has_learnt_is_allowed_without_reading() {
    let file = object("our_models.scoring", "Scorer", "weight");
    let report = judge(&[("a.pkl", &file)], &Limits::default());
    assert_eq!(report.verdict, Verdict::Unsafe);
    let limits = with("class our_models.scoring Scorer");
    let again = rejudge(&report, &limits);
    assert_eq!(again.verdict, Verdict::Clean, "{again:?}");
    assert!(again.findings.is_empty() && !needs_reading(&again));
    assert_eq!(
        again.rules_digest,
        judge(&[("a.pkl", &file)], &limits).rules_digest
    );
    assert_eq!(
        rejudge(&again, &Limits::default()).verdict,
        Verdict::Unsafe,
        "and refused when it is gone"
    );
    let gone = rejudge(&again, &Limits::default());
    let back = rejudge(&gone, &limits);
    assert_eq!(
        (back.verdict, needs_reading(&back)),
        (Verdict::Clean, false)
    );
}

#[test]
fn a_use_that_the_list_does_not_permit_needs_reading() {
    let called = [
        b"\x80\x04",
        [text("our.models"), text("make"), b"\x93)R".to_vec()]
            .concat()
            .as_slice(),
        b".",
    ]
    .concat()
    .into();
    let report = judge(&[("a.pkl", &called)], &Limits::default());
    for lines in ["class our.models make", "data our.models make"] {
        let again = rejudge(&report, &with(lines));
        assert_eq!(again.verdict, Verdict::Unsafe, "{lines}");
        assert!(needs_reading(&again), "{lines}");
    }
    let again = rejudge(&report, &with("call our.models make"));
    assert_eq!(
        (again.verdict, needs_reading(&again)),
        (Verdict::Clean, false)
    );
}

#[test]
fn a_special_attribute_stays_refused_when_its_class_is_allowed() {
    let file = object("our.models", "Scorer", "__reduce__");
    let report = judge(&[("a.pkl", &file)], &Limits::default());
    let again = rejudge(&report, &with("class our.models Scorer"));
    assert_eq!(again.verdict, Verdict::Unsafe);
    assert_eq!(
        judge(&[("a.pkl", &file)], &with("class our.models Scorer")).verdict,
        Verdict::Unsafe
    );
}

#[test]
fn another_refused_name_keeps_the_file_refused() {
    let two = [
        b"\x80\x04](",
        [
            text("our.models"),
            text("Scorer"),
            b"\x93)\x81".to_vec(),
            text("os"),
            text("system"),
            b"\x93e".to_vec(),
        ]
        .concat()
        .as_slice(),
        b".",
    ]
    .concat()
    .into();
    let report = judge(&[("a.pkl", &two)], &Limits::default());
    assert_eq!(
        rejudge(&report, &with("class our.models Scorer")).verdict,
        Verdict::Unsafe
    );
}

#[test]
fn a_report_of_the_same_rules_is_answered_as_it_is() {
    let file = object("our.models", "Scorer", "a");
    let clean = object("sklearn.svm._classes", "SVC", "a");
    for file in [file, clean] {
        let report = judge(&[("a.pkl", &file)], &Limits::default());
        assert_eq!(rejudge(&report, &Limits::default()), report);
    }
}

#[test]
fn a_report_without_the_uses_of_its_names_needs_reading() {
    let file = object("sklearn.svm._classes", "SVC", "a");
    let mut report = judge(&[("a.pkl", &file)], &Limits::default());
    report.files[0].facts.remove("global_uses");
    let again = rejudge(&report, &with("class our.models Scorer"));
    assert!(needs_reading(&again));
}

#[test]
fn a_rule_that_is_gone_keeps_its_verdict_and_needs_reading() {
    let file = Bytes::from_static(b"\x93NUMPY\x01\x00\x06\x00{'a':\n");
    let mut report = judge(&[("a.npy", &file)], &Limits::default());
    assert_eq!(report.verdict, Verdict::Malformed);
    report.rules_digest = "sha256:0".into();
    assert_eq!(
        rejudge(&report, &Limits::default()).verdict,
        Verdict::Malformed
    );
    report.findings[0].rule = "npy.no-longer-there".into();
    let again = rejudge(&report, &Limits::default());
    assert_eq!(
        (again.verdict, needs_reading(&again)),
        (Verdict::Malformed, true)
    );
}

#[test]
fn a_policy_asks_for_what_is_missing() {
    let model = object("sklearn.svm._classes", "SVC", "a");
    let limits = Limits {
        requirements: Requirements {
            signature: true,
            input_example: true,
            environment_files: true,
            licence: true,
            model_card: true,
        },
        ..Limits::default()
    };
    let report = judge(&[("model.pkl", &model)], &limits);
    let found: Vec<&str> = report
        .findings
        .iter()
        .map(|finding| finding.rule.as_str())
        .collect();
    assert_eq!(
        found,
        [
            "completeness.environment-files",
            "completeness.input-example",
            "completeness.licence",
            "completeness.model-card",
            "completeness.signature"
        ]
    );
    assert_eq!(report.verdict, Verdict::Malformed);
    assert_eq!(
        rejudge(&report, &Limits::default()).verdict,
        Verdict::Clean,
        "the policy was lifted"
    );
    let card = Bytes::from_static(b"---\nlicense: mit\n---\n# Card\n");
    let packages = Bytes::from_static(b"numpy==2.1.0\n");
    let files = [
        ("README.md", &card),
        ("model.pkl", &model),
        ("requirements.txt", &packages),
    ];
    let report = judge(&files, &limits);
    assert_eq!(report.findings.len(), 2, "{:?}", report.findings);
    assert_eq!(report.files[0].facts["licence"], "MIT");
    assert_eq!(report.files[2].facts["dependencies"][0]["name"], "numpy");
}

#[test]
fn advisories_name_vulnerable_packages() {
    let advisories = br#"{"vulns":[{"id":"TEST-1","summary":"bad","affected":[{"package":{"ecosystem":"PyPI","name":"Evil.Pkg"},
        "ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2.0"}]}]}]}]}"#;
    let limits = Limits {
        advisories: Some(Arc::new(Advisories::from_json(advisories).expect("OSV"))),
        ..Limits::default()
    };
    let old = Bytes::from_static(b"evil_pkg==1.9\n");
    let report = judge(&[("requirements.txt", &old)], &limits);
    assert_eq!(report.findings[0].rule, "environment.known-vulnerability");
    assert!(
        report.findings[0].detail.contains("fixed in 2.0"),
        "{:?}",
        report.findings
    );
    let stored = judge(&[("requirements.txt", &old)], &Limits::default());
    assert_eq!(
        rejudge(&stored, &limits).findings.len(),
        1,
        "a new advisory needs no reading"
    );
    let new = Bytes::from_static(b"evil_pkg==2.0\n");
    assert!(
        judge(&[("requirements.txt", &new)], &limits)
            .findings
            .is_empty()
    );
}

#[test]
fn the_table_of_rules_is_the_documented_one() {
    let documented = include_str!("../../../../docs/validation-rules.md");
    assert!(
        documented.starts_with(&rules::table()),
        "write its first part anew: cargo run -p model-formats --bin validate -- --rules"
    );
}
