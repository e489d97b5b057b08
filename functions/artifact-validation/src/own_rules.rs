//! The rules that are the registry's own: about uploads, and about what its policy accepts.
//!
//! Rules about content are the formats'.

/// The verdict over a version whose uploads are not as declared.
pub(crate) const REJECTED: &str = "rejected";

/// A rule of the registry.
#[derive(Debug)]
pub(crate) struct OwnRule {
    /// Stable id, such as `upload.size-mismatch`.
    pub(crate) id: &'static str,
    /// The verdict that it leads to.
    pub(crate) verdict: &'static str,
    /// Why it matters.
    pub(crate) why: &'static str,
    /// What to do.
    pub(crate) fix: &'static str,
}

pub(crate) const SIZE_MISMATCH: OwnRule = OwnRule {
    id: "upload.size-mismatch",
    verdict: REJECTED,
    why: "What was uploaded is not what was declared.",
    fix: "Register a new version, declare the size of the file that you upload, and upload it whole.",
};
pub(crate) const DIGEST_MISMATCH: OwnRule = OwnRule {
    id: "upload.digest-mismatch",
    verdict: REJECTED,
    why: "What was uploaded is not what was declared.",
    fix: "Register a new version, declare the SHA-256 of the file that you upload, and upload it unchanged.",
};
pub(crate) const NEVER_ARRIVED: OwnRule = OwnRule {
    id: "upload.never-arrived",
    verdict: REJECTED,
    why: "A version is registered only when all that it declares has arrived.",
    fix: "Register a new version, and upload every artifact before the upload deadline.",
};
pub(crate) const INSPECTION_CRASHED: OwnRule = OwnRule {
    id: "inspection.crashed",
    verdict: "incomplete",
    why: "A check that broke down has checked nothing.",
    fix: "Report the file to whoever runs this registry; it found a fault in the inspection.",
};
pub(crate) const NOT_ACCEPTED: OwnRule = OwnRule {
    id: "policy.verdict-not-accepted",
    verdict: REJECTED,
    why: "The validation policy of this registry does not accept versions of this verdict.",
    fix: "Mend what the other findings tell of, or ask whoever keeps the policy.",
};

const ALL: &[OwnRule] = &[
    SIZE_MISMATCH,
    DIGEST_MISMATCH,
    NEVER_ARRIVED,
    INSPECTION_CRASHED,
    NOT_ACCEPTED,
];

/// The rule with this id.
pub(crate) fn find(id: &str) -> Option<&'static OwnRule> {
    ALL.iter().find(|rule| rule.id == id)
}

/// Whether a rule is about no content, and is told anew by each judgement.
pub(crate) fn is_of_judgement(rule: &str) -> bool {
    rule == NOT_ACCEPTED.id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_own_rules_is_the_documented_one() {
        let mut table = String::from("| rule | verdict | why | fix |\n| --- | --- | --- | --- |\n");
        for rule in ALL {
            for part in [
                "| `",
                rule.id,
                "` | `",
                rule.verdict,
                "` | ",
                rule.why,
                " | ",
                rule.fix,
                " |\n",
            ] {
                table.push_str(part);
            }
        }
        let documented = include_str!("../../../docs/validation-rules.md");
        let (_, own) = documented
            .split_once("## Rules of the registry itself\n")
            .expect("the section is there");
        assert!(
            own.ends_with(&format!("\n{table}")),
            "the table is:\n{table}"
        );
    }
}
