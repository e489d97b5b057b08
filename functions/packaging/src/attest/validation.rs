//! What validation found, as a statement: verdict, digest of the rules, facts.

use super::{Subject, in_toto, subjects};
use serde_json::{Value, json};

/// The predicate's type.
pub(super) const PREDICATE_TYPE: &str =
    "https://github.com/slipway-registry/slipway/blob/main/docs/packages.md#validation-v1";

/// The statement.
pub(super) fn statement(subject: &Subject<'_>) -> Value {
    let validation = subject.version.validation.as_ref();
    let report = subject.report.as_ref();
    let of_report = |name: &str| report.and_then(|report| report.get(name)).cloned();
    in_toto(
        &subjects(subject),
        PREDICATE_TYPE,
        &json!({
            "verdict": validation.map(|validation| &validation.verdict),
            "summary": validation.map(|validation| &validation.summary),
            "verified_at": validation.map(|validation| validation.at),
            "rules_digest": of_report("rules_digest"),
            "report_digest": validation.map(|validation| &validation.report_digest),
            "artifacts": of_report("artifacts").unwrap_or_else(|| Value::Array(Vec::new())),
            "findings": of_report("findings").unwrap_or_else(|| Value::Array(Vec::new())),
            "is_complete": report.is_some(),
        }),
    )
}
