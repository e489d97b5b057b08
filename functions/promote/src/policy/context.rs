//! What conditions see: the context, and its schema.

use cedar_policy::Context;
use serde_json::{Map, Value, json};
use shared::domain::decimal::scaled;
use shared::domain::freeze::{Weekday, minute_of_day};
use shared::domain::model::Notes;
use shared::domain::protection::MetricScale;
use shared::domain::{Metadata, Principal, PromotionTarget, Timestamp, Version};
use shared::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What conditions see of a promotion.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) action: &'static str,
    pub(crate) target: &'a PromotionTarget,
    pub(crate) version: &'a Version,
    pub(crate) metadata: &'a Metadata,
    pub(crate) notes: &'a Notes,
    pub(crate) holder: Option<(&'a Version, &'a Metadata)>,
    pub(crate) held_before: bool,
    pub(crate) requester: (&'a Principal, &'a [String]),
    pub(crate) approvers: &'a [(Principal, BTreeSet<String>)],
    pub(crate) checks_passed: &'a BTreeSet<String>,
    pub(crate) now: Timestamp,
}

/// What the conditions of a protection see.
pub(crate) fn context(
    facts: &Facts<'_>,
    metrics: &BTreeMap<String, MetricScale>,
) -> Result<Context> {
    Context::from_json_value(describe(facts, metrics), None)
        .map_err(|error| Error::internal("making the context of conditions", error))
}

const DAY_MILLIS: u64 = 86_400_000;

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn age(since: Timestamp, now: Timestamp) -> Value {
    json!({
        "age_minutes": whole(now.since(since) / 60_000),
        "age_days": whole(now.since(since) / DAY_MILLIS),
    })
}

fn measured(metadata: &Metadata, metrics: &BTreeMap<String, MetricScale>) -> Value {
    let given = metrics.iter().filter_map(|(name, scale)| {
        let value = scaled(metadata.metrics.get(name)?, scale.digits)?;
        Some((name.clone(), json!(value)))
    });
    Value::Object(given.collect())
}

/// The parts of the metadata that are filled in, by name.
fn filled(metadata: &Metadata, notes: &Notes) -> Vec<String> {
    let mut filled: Vec<String> = match serde_json::to_value(metadata) {
        Ok(Value::Object(fields)) => fields.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    };
    if notes.description.is_some() {
        filled.push("description".into());
    }
    filled
}

pub(super) fn describe(facts: &Facts<'_>, metrics: &BTreeMap<String, MetricScale>) -> Value {
    let Facts {
        version,
        metadata,
        notes,
        now,
        ..
    } = *facts;
    let validation = version.validation.as_ref();
    let mut validated = age(validation.map_or(now, |it| it.at), now);
    validated["verdict"] = json!(validation.map_or("none", |it| it.verdict.as_str()));
    let tag = |name: &str| {
        notes
            .tags
            .get(name)
            .map(|value| value.trim().to_lowercase())
    };
    let tags: Vec<String> = notes
        .tags
        .iter()
        .flat_map(|(key, value)| [key.clone(), format!("{key}={value}")])
        .collect();
    let datasets = &metadata.datasets;
    let is_known = !datasets.is_empty()
        && datasets
            .iter()
            .all(|dataset| dataset.digest.is_some() || dataset.version.is_some());
    let groups: BTreeSet<&String> = facts
        .approvers
        .iter()
        .flat_map(|(_, groups)| groups)
        .collect();
    let approvers: BTreeSet<&str> = facts
        .approvers
        .iter()
        .map(|(principal, _)| principal.as_str())
        .collect();
    let day: i64 = now.day().replace('-', "").parse().unwrap_or(0);
    let mut context = json!({
        "action": facts.action,
        "model": version.id.model.as_str(),
        "version": version.id.number.get(),
        "target": {"kind": facts.target.kind(), "name": facts.target.name()},
        "validation": validated,
        "attestation": attested(version),
        "source": version.standing.source.as_str(),
        "registered_by": version.registered_by.as_str(),
        "age_days": whole(now.since(version.created_at) / DAY_MILLIS),
        "metrics": measured(metadata, metrics),
        "tags": tags,
        "metadata": filled(metadata, notes),
        "datasets": {"count": datasets.len(), "known": is_known},
        "stage": version.stage.as_str(),
        "past_stages": version.standing.past_stages,
        "held_before": facts.held_before,
        "requester": {"principal": facts.requester.0.as_str(), "groups": facts.requester.1},
        "approvers": {"count": approvers.len(), "principals": approvers, "groups": groups},
        "checks": {"passed": facts.checks_passed},
        "now": {
            "date": day,
            "minute_of_day": whole(minute_of_day(now)),
            "weekday": Weekday::of(now).number(),
            "epoch_seconds": whole(now.seconds()),
        },
    });
    let Value::Object(fields) = &mut context else {
        return context;
    };
    if let Some((holder, holder_metadata)) = facts.holder {
        let verdict = holder
            .validation
            .as_ref()
            .map_or("none", |it| it.verdict.as_str());
        fields.insert(
            "holder".into(),
            json!({
                "version": holder.id.number.get(),
                "verdict": verdict,
                "metrics": measured(holder_metadata, metrics),
            }),
        );
    }
    if let Some(licence) = tag("licence").or_else(|| tag("license")) {
        fields.insert("licence".into(), json!(licence));
    }
    if let Some(risk) = tag("risk") {
        fields.insert("risk".into(), json!(risk));
    }
    if let Some(pii) = tag("pii").and_then(|text| text.parse::<bool>().ok()) {
        fields.insert("pii".into(), json!(pii));
    }
    let evaluated = notes
        .tags
        .get("evaluated_at")
        .and_then(|text| serde_json::from_value::<Timestamp>(json!(text)).ok());
    if let Some(at) = evaluated {
        fields.insert("evaluation".into(), age(at, now));
    }
    context
}

/// What is signed of a version: by the registry, when its package was made, and by who uploaded it.
fn attested(version: &Version) -> Value {
    let signature = version
        .package
        .as_ref()
        .and_then(|package| package.signature.as_ref());
    let mut attested = json!({
        "present": version.package.is_some(),
        "signature": signature.map_or("none", |signature| signature.verdict.as_str()),
    });
    if let Some(key) = signature.and_then(|signature| signature.key.as_ref()) {
        attested["key"] = json!(key);
    }
    attested
}

/// The schema of the context, in Cedar's JSON form; `metrics` are what a protection declares.
pub(super) fn schema(metrics: &BTreeMap<String, MetricScale>) -> Value {
    let text = || json!({"type": "String"});
    let long = || json!({"type": "Long"});
    let flag = || json!({"type": "Boolean"});
    let texts = || json!({"type": "Set", "element": {"type": "String"}});
    let record = |attributes: Value| json!({"type": "Record", "attributes": attributes});
    let optional = |mut kind: Value| {
        kind["required"] = json!(false);
        kind
    };
    let ages = || record(json!({"age_minutes": long(), "age_days": long()}));
    let measured = || {
        let attributes: Map<String, Value> = metrics
            .keys()
            .map(|name| (name.clone(), optional(long())))
            .collect();
        record(Value::Object(attributes))
    };
    let context = record(json!({
        "action": text(),
        "model": text(),
        "version": long(),
        "target": record(json!({"kind": text(), "name": text()})),
        "validation": record(json!({"verdict": text(), "age_minutes": long(), "age_days": long()})),
        "attestation": record(json!({"present": flag(), "signature": text(), "key": optional(text())})),
        "source": text(),
        "registered_by": text(),
        "age_days": long(),
        "metrics": measured(),
        "holder": optional(record(json!({"version": long(), "verdict": text(), "metrics": measured()}))),
        "evaluation": optional(ages()),
        "licence": optional(text()),
        "risk": optional(text()),
        "pii": optional(flag()),
        "tags": texts(),
        "metadata": texts(),
        "datasets": record(json!({"count": long(), "known": flag()})),
        "stage": text(),
        "past_stages": texts(),
        "held_before": flag(),
        "requester": record(json!({"principal": text(), "groups": texts()})),
        "approvers": record(json!({"count": long(), "principals": texts(), "groups": texts()})),
        "checks": record(json!({"passed": texts()})),
        "now": record(json!({"date": long(), "minute_of_day": long(), "weekday": long(), "epoch_seconds": long()})),
    }));
    json!({"": {
        "entityTypes": {"Principal": {}, "Target": {}},
        "actions": {"promote": {"appliesTo": {
            "principalTypes": ["Principal"], "resourceTypes": ["Target"], "context": context,
        }}},
    }})
}
