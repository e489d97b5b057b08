//! The rules: each has a stable id, the verdict that it leads to, why it matters and how to mend it.
//!
//! Each format's module declares its own rules with [`Rule`] constants in a `RULES` slice; [`all`] gathers them.

use crate::report::Verdict;

/// One rule of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Stable id, `<format>.<what>` in kebab case.
    pub id: &'static str,
    /// The verdict that a finding of this rule leads to.
    pub verdict: Verdict,
    /// Why it matters, in one sentence.
    pub why: &'static str,
    /// What the author of the model can do, in one sentence.
    pub fix: &'static str,
}

/// Rules that belong to no single format.
pub const GENERAL: &[Rule] = &[
    Rule {
        id: "general.unknown-format",
        verdict: Verdict::Unsupported,
        why: "A file whose format is not known cannot be checked.",
        fix: "Use one of the supported formats, or keep the file out of the version.",
    },
    Rule {
        id: "general.read-failed",
        verdict: Verdict::Incomplete,
        why: "A check that could not read its bytes has checked nothing.",
        fix: "Validate again; if it fails again, upload the file again.",
    },
];

/// Every rule, in the order of its format.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [GENERAL].into_iter().flatten()
}

/// The rule with this id.
pub fn find(id: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.id == id)
}
