//! The rules: each has a stable id, the verdict that it leads to, why it matters and how to mend it.
//!
//! Each format's module declares its own rules with [`Rule`] constants in a `RULES` slice; [`all`] gathers them.

use crate::inspect::Limits;
use crate::report::Verdict;
use sha2::{Digest as _, Sha256};

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

/// The content is of no known format.
pub(crate) const UNKNOWN: Rule = Rule {
    id: "general.unknown-format",
    verdict: Verdict::Unsupported,
    why: "A file whose format is not known cannot be checked.",
    fix: "Use one of the supported formats, or keep the file out of the version.",
};
pub(crate) const READ_FAILED: Rule = Rule {
    id: "general.read-failed",
    verdict: Verdict::Incomplete,
    why: "A check that could not read its bytes has checked nothing.",
    fix: "Validate again; if it fails again, upload the file again.",
};
pub(crate) const MISMATCH: Rule = Rule {
    id: "general.extension-mismatch",
    verdict: Verdict::Malformed,
    why: "Loaders choose by the name, so that a file under a false name reaches a loader that nobody expected.",
    fix: "Give the file the extension of its format.",
};
pub(crate) const POLYGLOT: Rule = Rule {
    id: "general.polyglot",
    verdict: Verdict::Malformed,
    why: "A file that is two formats at once is a harmless one for the check and another for the loader.",
    fix: "Save the model again, and upload the file unchanged.",
};
pub(crate) const EMPTY: Rule = Rule {
    id: "general.empty-file",
    verdict: Verdict::Malformed,
    why: "An empty file is no model, and usually an upload that failed.",
    fix: "Upload the file again.",
};
pub(crate) const TOO_DEEP: Rule = Rule {
    id: "general.too-deep",
    verdict: Verdict::Malformed,
    why: "Archives within archives within archives hide what they hold, and exhaust whoever unpacks them.",
    fix: "Upload the files themselves.",
};

/// Rules that belong to no single format.
pub const GENERAL: &[Rule] = &[UNKNOWN, READ_FAILED, MISMATCH, POLYGLOT, EMPTY, TOO_DEEP];

/// Every rule, in the order of its format.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [
        GENERAL,
        crate::completeness::RULES,
        crate::compressed::RULES,
        crate::text::RULES,
        crate::companion::RULES,
        crate::zip::RULES,
        crate::archive::RULES,
        crate::pickle::RULES,
        crate::torch::RULES,
        crate::safetensors::RULES,
        crate::gguf::RULES,
        crate::onnx::RULES,
        crate::keras::RULES,
        crate::hdf5::RULES,
        crate::savedmodel::RULES,
        crate::tflite::RULES,
        crate::coreml::RULES,
        crate::xgboost::RULES,
        crate::lightgbm::RULES,
        crate::catboost::RULES,
        crate::pmml::RULES,
        crate::skops::RULES,
        crate::npy::RULES,
        crate::mlflow::RULES,
        crate::huggingface::RULES,
        crate::triton::RULES,
        crate::environment::RULES,
        crate::licence::RULES,
    ]
    .into_iter()
    .flatten()
}

/// Digest of the rules, as these limits have them, and of the names that pickles may import; another digest means
/// another judgement.
pub fn digest(limits: &Limits) -> String {
    let mut hash = Sha256::new();
    for rule in all() {
        hash.update(format!("{} {:?}\n", rule.id, limits.verdict_of(rule)));
    }
    hash.update(limits.allow_list().digest());
    written(hash)
}

/// A digest as reports have it, `sha256:<hex>`.
pub(crate) fn written(hash: Sha256) -> String {
    let mut digest = String::from("sha256:");
    for byte in hash.finalize() {
        for nibble in [byte >> 4, byte & 0x0f] {
            digest.extend(char::from_digit(nibble.into(), 16));
        }
    }
    digest
}

/// The rule with this id.
pub fn find(id: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.id == id)
}

/// The table of all rules, as `docs/validation-rules.md` holds it.
pub fn table() -> String {
    let mut table = String::from(
        "# Rules of validation\n\n\
         Made by `cargo run -p model-formats --bin validate -- --rules`; a test holds it against the code.\n\
         A rule whose verdict is `clean` is a note: it refuses nothing.\n\n\
         | rule | verdict | why | fix |\n| --- | --- | --- | --- |\n",
    );
    for rule in all() {
        let verdict = rule.verdict.word();
        for part in [
            "| `", rule.id, "` | `", verdict, "` | ", rule.why, " | ", rule.fix, " |\n",
        ] {
            table.push_str(part);
        }
    }
    table
}
