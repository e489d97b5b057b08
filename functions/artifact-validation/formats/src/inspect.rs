//! The inspection of a whole bundle: detect each file's format, check it, and combine the verdicts.

use crate::bundle::Bundle;
use crate::report::{FileReport, Finding, Report, Verdict};
use serde_json::Map;

/// Bounds that hold for every parser, whatever a file says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes that may be held in memory for one file at a time.
    pub memory_bytes: usize,
    /// Deepest nesting of archives within archives.
    pub archive_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 32 * 1024 * 1024,
            archive_depth: 4,
        }
    }
}

/// Inspects a part of a file, such as a member of an archive, as a file of its own within `check`.
///
/// `name` follows the path of the whole after `!/`; `source` holds the expanded bytes.
/// Nesting beyond [`Limits::archive_depth`] is a finding of its own.
pub fn check_part(
    check: &mut crate::Check<'_>,
    name: &str,
    source: &dyn crate::Source,
) -> Result<(), crate::ReadError> {
    let path = format!("{}!/{name}", check.path);
    let part = crate::Check::new(check.bundle, &path, source, check.limits, check.depth + 1);
    check.absorb(part);
    Ok(())
}

/// Inspects every file of `bundle`.
pub fn inspect(bundle: &Bundle<'_>, _limits: &Limits) -> Report {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    for file in bundle.files() {
        findings.push(Finding {
            rule: "general.unknown-format".into(),
            path: file.path.into(),
            offset_bytes: None,
            detail: "the content matches no supported format".into(),
        });
        files.push(FileReport {
            path: file.path.into(),
            format: "unknown".into(),
            verdict: Verdict::Unsupported,
            facts: Map::new(),
        });
    }
    let verdict = files
        .iter()
        .map(|file| file.verdict)
        .max()
        .unwrap_or(Verdict::Unsupported);
    Report {
        verdict,
        files,
        findings,
    }
}
