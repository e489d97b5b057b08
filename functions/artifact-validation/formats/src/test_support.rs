//! Runs one format's check over bytes in memory, for the tests of the format modules.

use crate::report::Verdict;
use crate::{Bundle, BundleFile, Check, Limits, ReadError};
use bytes::Bytes;
use serde_json::{Map, Value};

/// Checks `bytes` as the only file of a version; answers verdict, rule ids and facts.
pub(crate) fn run(
    check: fn(&mut Check<'_>) -> Result<(), ReadError>,
    path: &str,
    bytes: Vec<u8>,
) -> (Verdict, Vec<String>, Map<String, Value>) {
    run_among(check, path, bytes, &[])
}

/// Checks `bytes` beside other files of the version.
pub(crate) fn run_among(
    check: fn(&mut Check<'_>) -> Result<(), ReadError>,
    path: &str,
    bytes: Vec<u8>,
    others: &[(&str, Bytes)],
) -> (Verdict, Vec<String>, Map<String, Value>) {
    let bytes = Bytes::from(bytes);
    let limits = Limits::default();
    let mut files = vec![BundleFile {
        path,
        source: &bytes,
    }];
    for (other, content) in others {
        files.push(BundleFile {
            path: other,
            source: content,
        });
    }
    let bundle = Bundle::new(files);
    let mut one = Check::new(&bundle, path, &bytes, &limits, 0);
    check(&mut one).expect("memory can be read");
    let (verdict, findings, facts) = one.finish();
    let rules = findings.into_iter().map(|finding| finding.rule).collect();
    (verdict, rules, facts)
}
