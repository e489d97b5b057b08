//! Conditions in Cedar: what they must be to be set, and whether they hold.
//!
//! Cedar is described at <https://docs.cedarpolicy.com>. An expression is the `when` of a policy that permits; it is
//! typed against the schema when it is set, so that a condition which is in force can read nothing that is not there.

mod context;

pub(crate) use context::{Facts, context};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityUid, Expression, Policy, PolicyId, PolicySet,
    Request, Schema, ValidationMode, ValidationWarning, Validator,
};
use context::schema;
use shared::domain::protection::Condition;
use shared::domain::{Protection, Protections};
use shared::{Error, Result};
use std::str::FromStr as _;

/// The stack on which expressions are parsed, typed and evaluated, in bytes.
///
/// Cedar goes down into an expression by recursion: its parser ends the process where the stack does, and its validator
/// passes what it did not get to. This is enough for the deepest expression that a protection may have, in a build
/// without optimization too; pages that are never touched cost nothing.
const STACK_BYTES: usize = 128 << 20;

/// Checks every expression: its syntax, and its types against the schema of its protection.
pub(crate) fn check(protections: &Protections) -> Result<()> {
    stacker::grow(STACK_BYTES, || check_here(protections))
}

fn check_here(protections: &Protections) -> Result<()> {
    for protection in &protections.protections {
        let schema = Schema::from_json_value(schema(&protection.metrics))
            .map_err(|error| Error::internal("making the schema of conditions", error))?;
        let validator = Validator::new(schema);
        for condition in protection.all_conditions() {
            let refuse = |problem: String| {
                Error::invalid(
                    "when",
                    format!(
                        "condition `{}/{}`: {}; correct the expression",
                        protection.id,
                        condition.id,
                        problem.trim_end_matches('.')
                    ),
                )
            };
            let set = compile(&condition).map_err(refuse)?;
            let answer = validator.validate(&set, ValidationMode::Strict);
            if let Some(error) = answer.validation_errors().next() {
                return Err(refuse(error.to_string()));
            }
            let never = answer
                .validation_warnings()
                .any(|warning| matches!(warning, ValidationWarning::ImpossiblePolicy(_)));
            // What shall never pass says `false`; anything else that cannot hold is a slip.
            if never && condition.when.trim() != "false" {
                return Err(refuse(
                    "it can never hold: `has` asks for something that the context has not, or for a metric that `metrics` does not declare; what shall never hold is `false`"
                        .to_owned(),
                ));
            }
        }
    }
    Ok(())
}

fn compile(condition: &Condition) -> std::result::Result<PolicySet, String> {
    // Parsed alone first, so that nothing can close the `when` and go on after it.
    Expression::from_str(&condition.when).map_err(|error| error.to_string())?;
    let text = format!(
        "permit(principal, action, resource) when {{ {}\n}};",
        condition.when
    );
    let policy = Policy::parse(Some(PolicyId::new(&condition.id)), text)
        .map_err(|error| error.to_string())?;
    PolicySet::from_policies([policy]).map_err(|error| error.to_string())
}

/// Whether a condition holds; the error says why that cannot be told, and then it does not hold.
pub(crate) fn holds(condition: &Condition, context: &Context) -> std::result::Result<bool, String> {
    stacker::grow(STACK_BYTES, || holds_here(condition, context))
}

fn holds_here(condition: &Condition, context: &Context) -> std::result::Result<bool, String> {
    let set = compile(condition)?;
    let (principal, action, resource) = request_of()?;
    let request = Request::new(principal, action, resource, context.clone(), None)
        .map_err(|error| error.to_string())?;
    let answer = Authorizer::new().is_authorized(&request, &set, &Entities::empty());
    if let Some(error) = answer.diagnostics().errors().next() {
        return Err(error.to_string());
    }
    Ok(answer.decision() == Decision::Allow)
}

fn request_of() -> std::result::Result<(EntityUid, EntityUid, EntityUid), String> {
    let entity = |text: &str| EntityUid::from_str(text).map_err(|error| error.to_string());
    Ok((
        entity(r#"Principal::"requester""#)?,
        entity(r#"Action::"promote""#)?,
        entity(r#"Target::"target""#)?,
    ))
}

/// What a protection's conditions need beyond the version itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) metadata: bool,
    pub(crate) notes: bool,
    pub(crate) holder: bool,
}

impl Needs {
    /// Everything.
    pub(crate) const ALL: Self = Self {
        metadata: true,
        notes: true,
        holder: true,
    };

    /// Reads it off the expressions: what they never name, they cannot see.
    pub(crate) fn of<'a>(protections: impl Iterator<Item = &'a Protection>) -> Self {
        let mut needs = Self::default();
        for condition in protections.flat_map(Protection::all_conditions) {
            // An escape may hide a name.
            if condition.when.contains('\\') {
                return Self::ALL;
            }
            let names = |words: &[&str]| words.iter().any(|word| condition.when.contains(word));
            needs.metadata |= names(&["metrics", "metadata", "datasets"]);
            needs.notes |= names(&["tags", "licence", "risk", "pii", "evaluation", "metadata"]);
            needs.holder |= names(&["holder"]);
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::context::describe;
    use super::*;
    use serde_json::{Value, json};
    use shared::domain::model::Notes;
    use shared::domain::protection::{MAX_EXPRESSION_BYTES, MAX_EXPRESSION_DEPTH};
    use shared::domain::version::{Document, Validation};
    use shared::domain::{
        Digest, Metadata, ModelName, Principal, PromotionTarget, Standing, Status, TenantName,
        Timestamp, Version, VersionId, VersionNumber,
    };
    use std::collections::BTreeSet;

    fn version(number: u64, verdict: &str) -> Version {
        let at = Timestamp::from_millis(1_000);
        Version {
            id: VersionId {
                tenant: TenantName::default_tenant(),
                model: ModelName::parse("iris").unwrap(),
                number: VersionNumber::new(number).unwrap(),
            },
            status: Status::Ready,
            stage: Version::first_stage(),
            alias_count: 0,
            aliases: BTreeSet::new(),
            origin: None,
            registered_by: Principal::parse("ada").unwrap(),
            request_id: "r".into(),
            created_at: at,
            updated_at: at,
            finalized_at: None,
            deleted_at: None,
            artifact_count: 1,
            size_bytes: 1,
            metadata: Document::Absent,
            artifacts: Document::Absent,
            notes: Document::Absent,
            metadata_digest: Digest::of(b""),
            revision: 1,
            validation: Some(Validation {
                verdict: verdict.into(),
                summary: String::new(),
                report_digest: Digest::of(b""),
                at,
                policy_revision: None,
            }),
            package: None,
            files_of: None,
            declared_at: None,
            purged_at: None,
            revoked_at: None,
            standing: Standing::default(),
        }
    }

    fn protections(metrics: &Value, when: &str) -> Protections {
        serde_json::from_value(json!({"protections": [{
            "id": "p", "aliases": ["champion"], "metrics": metrics,
            "conditions": [{"id": "c", "when": when, "satisfied_by": "x"}],
        }]}))
        .unwrap()
    }

    #[test]
    fn expressions_are_checked_when_they_are_set() {
        for (when, problem) in [
            ("true", None),
            ("context.validation.verdict == \"clean\"", None),
            (
                "context.metrics has accuracy && context.metrics.accuracy >= 950000",
                None,
            ),
            ("context.metrics has f1", Some("can never hold")),
            (
                "context has licenze && context.licenze == \"mit\"",
                Some("can never hold"),
            ),
            ("false", None),
            ("context has holder && false", Some("can never hold")),
            ("context has risk && context.risk == \"low\"", None),
            (
                "context.tags.contains(\"team=vision\") && context.past_stages.contains(\"Staging\")",
                None,
            ),
            (
                "context.now.weekday < 6 && context.now.minute_of_day >= 480",
                None,
            ),
            ("context.metrics.accuracy >= 1", Some("optional attribute")),
            ("context.holder.version > 1", Some("optional attribute")),
            ("context.nothing == 1", Some("not found")),
            ("context.version == \"1\"", Some("")),
            ("context.version", Some("")),
            ("", Some("")),
            ("tru", Some("")),
            (
                "true }; permit(principal, action, resource) when { true",
                Some(""),
            ),
            ("true } unless { false", Some("")),
            ("context.version > ", Some("")),
        ] {
            let answer = check(&protections(&json!({"accuracy": {}}), when));
            match (answer, problem) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => {
                    assert!(error.message.contains(part), "{when}: {}", error.message);
                    assert!(error.message.contains("p/c"), "{}", error.message);
                }
                (answer, _) => panic!("{when}: {answer:?}"),
            }
        }
    }

    #[test]
    fn the_default_condition_is_valid() {
        let default: Protections =
            serde_json::from_value(json!({"protections": [{"id": "p", "aliases": ["x"]}]}))
                .unwrap();
        check(&default).unwrap();
    }

    fn holds_for(when: &str, metadata: Value, holder: Option<Value>, tags: &Value) -> Value {
        let protections = protections(&json!({"accuracy": {}, "val/f1": {"digits": 2}}), when);
        check(&protections).unwrap();
        let protection = &protections.protections[0];
        let metadata: Metadata = serde_json::from_value(metadata).unwrap();
        let notes: Notes = serde_json::from_value(json!({"tags": tags})).unwrap();
        let holder_metadata: Option<Metadata> =
            holder.map(|value| serde_json::from_value(value).unwrap());
        let (new, old) = (version(2, "clean"), version(1, "contains_code"));
        let requester = Principal::parse("ada").unwrap();
        let groups = ["risk".to_owned()];
        let facts = Facts {
            action: "set_alias",
            target: &PromotionTarget::Alias("champion".into()),
            version: &new,
            metadata: &metadata,
            notes: &notes,
            holder: holder_metadata.as_ref().map(|metadata| (&old, metadata)),
            held_before: false,
            requester: (&requester, &groups),
            approvers: &[(
                Principal::parse("ben").unwrap(),
                BTreeSet::from(["board".to_owned()]),
            )],
            checks_passed: &BTreeSet::from(["smoke".to_owned()]),
            // A Saturday at 12:30.
            now: serde_json::from_value(json!("2026-11-21T12:30:00Z")).unwrap(),
        };
        // What the conditions see is what the schema says.
        let action = EntityUid::from_str(r#"Action::"promote""#).unwrap();
        let schema = Schema::from_json_value(schema(&protection.metrics)).unwrap();
        let described = describe(&facts, &protection.metrics);
        Context::from_json_value(described, Some((&schema, &action))).unwrap();
        let context = context(&facts, &protection.metrics).unwrap();
        match holds(&protection.all_conditions()[0], &context) {
            Ok(answer) => json!(answer),
            Err(error) => json!(error),
        }
    }

    #[test]
    fn conditions_see_what_they_are_promised() {
        let not_worse = "context.metrics has accuracy && \
            (if context has holder && context.holder.metrics has accuracy \
             then context.metrics.accuracy >= context.holder.metrics.accuracy - 10000 else true)";
        let accuracy = |value: f64| json!({"metrics": {"accuracy": value}});
        let none = || json!({});
        for (when, metadata, holder, tags, expected) in [
            (
                not_worse,
                accuracy(0.96),
                Some(accuracy(0.97)),
                none(),
                true,
            ),
            (
                not_worse,
                accuracy(0.959_999),
                Some(accuracy(0.97)),
                none(),
                false,
            ),
            (not_worse, accuracy(0.1), None, none(), true),
            (not_worse, json!({}), None, none(), false),
            (not_worse, accuracy(0.1), Some(json!({})), none(), true),
            (
                "context.metrics has \"val/f1\" && context.metrics[\"val/f1\"] == 91",
                json!({"metrics": {"val/f1": 0.919}}),
                None,
                none(),
                true,
            ),
            (
                "context.holder.verdict == \"contains_code\"",
                json!({}),
                Some(json!({})),
                none(),
                true,
            ),
            (
                "context has risk && context.risk == \"low\" && context has pii && !context.pii",
                json!({}),
                None,
                json!({"risk": "Low", "pii": "false"}),
                true,
            ),
            (
                "context has licence && [\"mit\", \"apache-2.0\"].contains(context.licence)",
                json!({}),
                None,
                json!({"license": "MIT"}),
                true,
            ),
            (
                "context has evaluation && context.evaluation.age_days <= 30",
                json!({}),
                None,
                json!({"evaluated_at": "2026-11-01T00:00:00Z"}),
                true,
            ),
            (
                "context has evaluation && context.evaluation.age_days <= 10",
                json!({}),
                None,
                json!({"evaluated_at": "2026-11-01T00:00:00Z"}),
                false,
            ),
            (
                "context.datasets.known",
                json!({"datasets": [{"name": "d", "digest": "x"}]}),
                None,
                none(),
                true,
            ),
            (
                "context.datasets.known",
                json!({"datasets": [{"name": "d"}]}),
                None,
                none(),
                false,
            ),
            (
                "context.metadata.containsAll([\"datasets\", \"code\"])",
                json!({"datasets": [{"name": "d"}], "code": {"commit": "c"}}),
                None,
                none(),
                true,
            ),
            (
                "context.approvers.count >= 1 && context.approvers.groups.contains(\"board\")",
                json!({}),
                None,
                none(),
                true,
            ),
            (
                "context.requester.groups.contains(\"risk\") && context.requester.principal == \"ada\"",
                json!({}),
                None,
                none(),
                true,
            ),
            (
                "context.checks.passed.contains(\"smoke\")",
                json!({}),
                None,
                none(),
                true,
            ),
            (
                "context.now.weekday == 6 && context.now.date == 20261121 && context.now.minute_of_day == 750",
                json!({}),
                None,
                none(),
                true,
            ),
            (
                "context.source == \"upload\" && !context.attestation.present",
                json!({}),
                None,
                none(),
                true,
            ),
            (
                "context.version - 9223372036854775807 - 9223372036854775807 < 0",
                json!({}),
                None,
                none(),
                false,
            ),
        ] {
            let when = if when.starts_with("context.holder") {
                format!("context has holder && {when}")
            } else {
                when.to_owned()
            };
            let answer = holds_for(&when, metadata.clone(), holder.clone(), &tags);
            if let Some(answer) = answer.as_bool() {
                assert_eq!(answer, expected, "{when} of {metadata} against {holder:?}");
            } else {
                assert!(when.contains("9223372036854775807"), "{when}: {answer}");
            }
        }
    }

    #[test]
    fn the_deepest_expressions_are_read_to_their_end() {
        let room = MAX_EXPRESSION_BYTES;
        let around = |open: &str, middle: &str, close: &str, most: usize| {
            let depth = most.min((room - middle.len()) / (open.len() + close.len()));
            format!("{}{middle}{}", open.repeat(depth), close.repeat(depth))
        };
        let then = |first: &str, next: &str| {
            format!("{first}{}", next.repeat((room - first.len()) / next.len()))
        };
        for (when, is_right) in [
            (around("(", "true", ")", MAX_EXPRESSION_DEPTH), true),
            (around("(", "1", ")", MAX_EXPRESSION_DEPTH), false),
            (
                around("if true then ", "true", " else false", usize::MAX),
                true,
            ),
            (
                around("if true then ", "1", " else false", usize::MAX),
                false,
            ),
            (then("true", "&&true"), true),
            (then("false", "||1"), false),
            (then("0 < 1", "+1"), true),
            (then("context", ".a"), false),
            (then("context.tags", r#".contains("a")"#), false),
            (around("[", "1", "]", MAX_EXPRESSION_DEPTH), false),
            (around("{a: ", "1", "}", MAX_EXPRESSION_DEPTH), false),
        ] {
            let protections = protections(&json!({}), &when);
            assert_eq!(check(&protections).is_ok(), is_right, "{}", &when[..40]);
            if is_right {
                let condition = &protections.protections[0].all_conditions()[0];
                assert_eq!(
                    holds(condition, &Context::empty()),
                    Ok(true),
                    "{}",
                    &when[..40]
                );
            }
        }
    }

    #[test]
    fn what_is_not_named_is_not_read() {
        let needs = |when: &str| Needs::of(protections(&json!({}), when).protections.iter());
        assert_eq!(
            needs("context.validation.verdict == \"clean\""),
            Needs::default()
        );
        assert!(needs("context has holder").holder);
        assert!(needs("context.tags.contains(\"a\")").notes);
        assert!(needs("context.datasets.known").metadata);
        assert_eq!(needs(r#"context["met\u{72}ics"] has a"#), Needs::ALL);
    }
}
