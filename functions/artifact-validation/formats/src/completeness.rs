//! What a version must bring along beside its model, and what is known of the packages that it declares.
//!
//! Both are judged by the facts of the files alone, so that they can be judged again without reading a byte.

use crate::environment::Dependency;
use crate::inspect::Limits;
use crate::report::{FileReport, Finding, Verdict};
use crate::rules::Rule;
use serde_json::{Map, Value};

/// The rules of completeness.
pub const RULES: &[Rule] = &[
    SIGNATURE,
    INPUT_EXAMPLE,
    ENVIRONMENT,
    LICENCE,
    MODEL_CARD,
    VULNERABLE,
];

const SIGNATURE: Rule = Rule {
    id: "completeness.signature",
    verdict: Verdict::Malformed,
    why: "This registry asks for a signature, without which nobody knows what the model takes and answers.",
    fix: "Save the model with a signature.",
};
const INPUT_EXAMPLE: Rule = Rule {
    id: "completeness.input-example",
    verdict: Verdict::Malformed,
    why: "This registry asks for an input example, with which a deployment can be tried.",
    fix: "Save the model with an input example.",
};
const ENVIRONMENT: Rule = Rule {
    id: "completeness.environment-files",
    verdict: Verdict::Malformed,
    why: "This registry asks for the files from which the model's environment is built.",
    fix: "Add a `requirements.txt` or a `conda.yaml`.",
};
const LICENCE: Rule = Rule {
    id: "completeness.licence",
    verdict: Verdict::Malformed,
    why: "This registry asks for a licence, without which nobody may use the model.",
    fix: "Name the licence in the front matter of a `README.md`.",
};
const MODEL_CARD: Rule = Rule {
    id: "completeness.model-card",
    verdict: Verdict::Malformed,
    why: "This registry asks for a model card, which says what the model is for and where it must not be used.",
    fix: "Add a `README.md` that describes the model.",
};
const VULNERABLE: Rule = Rule {
    id: "environment.known-vulnerability",
    verdict: Verdict::Clean,
    why: "An advisory of the deployment names this version of the package.",
    fix: "Depend on a version that the advisory calls fixed.",
};

/// Path of findings that concern the version as a whole.
const WHOLE: &str = ".";
/// Deepest nesting of facts, as archives nest.
const MAX_DEPTH: usize = 16;

/// What a version must bring along, by the policy of a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in a policy"
)]
pub struct Requirements {
    /// What the model takes and answers.
    pub signature: bool,
    /// An example of what it takes.
    pub input_example: bool,
    /// The files from which its environment is built.
    pub environment_files: bool,
    /// A licence.
    pub licence: bool,
    /// A model card.
    pub model_card: bool,
}

/// Whether a rule is judged here, from facts.
pub(crate) fn is_own(rule: &str) -> bool {
    RULES.iter().any(|own| own.id == rule)
}

/// Holds the facts of all files against the policy; answers the worst verdict of what it found.
pub(crate) fn apply(files: &[FileReport], limits: &Limits, findings: &mut Vec<Finding>) -> Verdict {
    let required = limits.requirements;
    let mut worst = Verdict::Clean;
    let mut find = |rule: &Rule, path: &str, detail: String| {
        worst = worst.max(limits.verdict_of(rule));
        findings.push(Finding {
            rule: rule.id.to_owned(),
            path: path.to_owned(),
            offset_bytes: None,
            detail,
        });
    };
    let has = |name: &str| files.iter().any(|file| has_fact(&file.facts, name, 0));
    if required.signature && !has("signature") {
        find(&SIGNATURE, WHOLE, "no file has a signature".into());
    }
    if required.input_example && !has("has_input_example") {
        find(&INPUT_EXAMPLE, WHOLE, "no input example".into());
    }
    if required.environment_files && !has("dependencies") {
        find(&ENVIRONMENT, WHOLE, "no file declares dependencies".into());
    }
    if required.licence && !has("licence") {
        find(&LICENCE, WHOLE, "no file names a licence".into());
    }
    if required.model_card && !files.iter().any(is_card) {
        find(&MODEL_CARD, WHOLE, "no file is a model card".into());
    }
    if let Some(advisories) = &limits.advisories {
        for file in files {
            let declared: Vec<Dependency> = file
                .facts
                .get("dependencies")
                .and_then(|facts| serde_json::from_value(facts.clone()).ok())
                .unwrap_or_default();
            for hit in advisories.lookup(&declared).into_iter().take(100) {
                let fixed = hit
                    .fixed
                    .map_or_else(String::new, |fixed| format!(", fixed in {fixed}"));
                let summary: String = hit.summary.chars().take(200).collect();
                let detail = format!(
                    "{} {}: {} {summary}{fixed}",
                    hit.package, hit.version, hit.id
                );
                find(&VULNERABLE, &file.path, detail);
            }
        }
    }
    worst
}

/// Whether a file is a model card, or an archive with one.
fn is_card(file: &FileReport) -> bool {
    let in_archive = file
        .facts
        .get("members")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|member| member.get("format").and_then(Value::as_str) == Some("model-card"));
    file.format == "model-card" || in_archive
}

/// Whether `facts`, or those of a member within, have a value under `name`.
fn has_fact(facts: &Map<String, Value>, name: &str, depth: usize) -> bool {
    let is_there = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    facts.get(name).is_some_and(is_there)
        || (depth < MAX_DEPTH
            && facts.iter().any(|(key, value)| match value {
                Value::Object(inner) if key.starts_with("member:") => has_fact(inner, name, depth + 1),
                Value::Array(members) if key == "members" => members.iter().any(|member| {
                    matches!(member.get("facts"), Some(Value::Object(inner)) if has_fact(inner, name, depth + 1))
                }),
                _ => false,
            }))
}
