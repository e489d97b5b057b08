//! The validation policy: shows it, and replaces it by compare-and-swap.

use crate::ruling::{AdvisoriesFile, MAX_ADVISORIES_BYTES, PolicyDocument, read_document};
use bytes::Bytes;
use model_formats::environment::Advisories;
use model_formats::{Limits, Policy, rules};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::domain::model::{MAX_REASON, check_text};
use shared::domain::version::Document;
use shared::domain::{Digest, Event, EventType, Principal, TenantName, Timestamp};
use shared::dynamodb::{Outcome, StoredPolicy};
use shared::http::Caller;
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};
use std::collections::BTreeSet;

/// What of a policy rides in its item, in bytes, so that reading it stays one unit.
const INLINE_BYTES: usize = 3_500;
/// Most lines of the allow-list that an event names as added, and as removed.
const MAX_TOLD: usize = 50;

/// Replaces the policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPolicy {
    expected_revision: u64,
    policy: Policy,
    #[serde(default)]
    advisories: Option<SetAdvisories>,
    #[serde(default)]
    reason: Option<String>,
}

/// Advisories in OSV format: themselves, or an object of the bucket that has them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAdvisories {
    #[serde(default)]
    osv: Option<Value>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    object_version: Option<String>,
    /// What a policy shows of its advisories may be sent back with it; the object decides.
    #[serde(default, rename = "etag")]
    _etag: Option<String>,
    #[serde(default, rename = "size_bytes")]
    _size_bytes: Option<u64>,
    #[serde(default, rename = "record_count")]
    _record_count: Option<usize>,
}

/// The policy as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyView {
    /// How often it was changed; 0 if never.
    revision: u64,
    /// What the registry decides about validation.
    policy: Policy,
    /// The advisories that dependencies are held against.
    advisories: Option<AdvisoriesFile>,
    /// Digest of the built-in allow-list with what the policy adds.
    allow_list_digest: String,
    /// Digest of the rules and the allow-list, as reports have it.
    rules_digest: String,
    /// Who changed it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_by: Option<Principal>,
    /// When it was changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_at: Option<Timestamp>,
}

impl PolicyView {
    fn of(document: PolicyDocument, stored: Option<&StoredPolicy>, limits: &Limits) -> Self {
        Self {
            revision: stored.map_or(0, |stored| stored.revision),
            allow_list_digest: limits.allow_list().digest(),
            rules_digest: rules::digest(limits),
            policy: document.policy,
            advisories: document.advisories,
            changed_by: stored.map(|stored| stored.changed_by.clone()),
            changed_at: stored.map(|stored| stored.changed_at),
        }
    }
}

/// Shows the policy; that of a tenant which never set one is the default.
pub(crate) async fn get(app: &App, tenant: &TenantName) -> Result<PolicyView> {
    let stored = app.registry.find_validation_policy(tenant).await?;
    let document = match &stored {
        Some(stored) => read_document(app, stored).await?,
        None => PolicyDocument::default(),
    };
    let limits = document
        .policy
        .limits(None)
        .or_else(|_| document.policy.without_refused().0.limits(None))
        .map_err(|error| Error::internal("following the validation policy", error))?;
    Ok(PolicyView::of(document, stored.as_ref(), &limits))
}

/// Replaces the policy if it is at the expected revision.
pub(crate) async fn set(
    app: &App,
    caller: &Caller,
    command: SetPolicy,
) -> Result<Outcome<PolicyView>> {
    check_text("reason", command.reason.as_deref(), MAX_REASON)?;
    let limits = command
        .policy
        .limits(None)
        .map_err(|error| Error::invalid(error.field(), error.to_string()))?;
    let tenant = &caller.tenant;
    let known = app.registry.find_validation_policy(tenant).await?;
    let revision = known.as_ref().map_or(0, |known| known.revision);
    if revision != command.expected_revision {
        return Err(moved(known.as_ref()));
    }
    let before = match &known {
        Some(known) => read_document(app, known).await?,
        None => PolicyDocument::default(),
    };
    let document = PolicyDocument {
        policy: command.policy,
        advisories: match command.advisories {
            Some(advisories) => Some(pin(app, tenant, advisories).await?),
            None => None,
        },
    };
    let event = app
        .event(
            EventType::ValidationPolicyChanged,
            tenant,
            &caller.principal,
            &caller.request_id,
        )
        .because(command.reason);
    let stored = StoredPolicy {
        revision: revision + 1,
        document: place(app, tenant, &document).await?,
        changed_by: caller.principal.clone(),
        changed_at: event.time,
    };
    let event = told(event, &before, &document, stored.revision, &limits);
    let view = PolicyView::of(document, Some(&stored), &limits);
    let answer = caller.answer(200, &view, event.time)?;
    match app
        .registry
        .change_validation_policy(&stored, &event, answer)
        .await?
    {
        Ok(outcome) => {
            tracing::info!(
                tenant.name = tenant.as_str(),
                policy.revision = stored.revision,
                "The validation policy of tenant `{tenant}` is at revision {}",
                stored.revision
            );
            Ok(outcome.map(|()| view))
        }
        Err(current) => Err(moved(current.as_ref())),
    }
}

/// Finds the place of a policy's document: its item, or an object.
async fn place(app: &App, tenant: &TenantName, document: &PolicyDocument) -> Result<Document> {
    let json = serde_json::to_string(document)
        .map_err(|error| Error::internal("writing a policy", error))?;
    if json.len() <= INLINE_BYTES {
        return Ok(Document::Inline(json));
    }
    let key = keys::document(tenant, keys::POLICIES, &Digest::of(json.as_bytes()));
    app.bucket
        .put_immutable(&key, json.into(), "application/json")
        .await?;
    Ok(Document::Object(key))
}

/// Checks advisories, and pins them to the object that was checked.
async fn pin(app: &App, tenant: &TenantName, command: SetAdvisories) -> Result<AdvisoriesFile> {
    let (key, object_version) = match (command.osv, command.key) {
        (Some(osv), None) => {
            let bytes = Bytes::from(osv.to_string());
            check(&bytes)?;
            let key = keys::document(tenant, keys::POLICIES, &Digest::of(&bytes));
            app.bucket
                .put_immutable(&key, bytes, "application/json")
                .await?;
            (key, None)
        }
        (None, Some(key)) => (key, command.object_version),
        _ => {
            return Err(Error::invalid(
                "advisories",
                "give the advisories as `osv`, or the key of an object that has them as `key`; one of the two",
            ));
        }
    };
    let shown: String = key.chars().take(200).flat_map(char::escape_debug).collect();
    if !keys::is_advisories(tenant, &key) {
        return Err(Error::invalid(
            "advisories",
            format!(
                "`{shown}` is no place of advisories; put the file under `{}`, or send it as `osv`",
                keys::advisories_prefix(tenant)
            ),
        ));
    }
    let head = app
        .bucket
        .head(&key, object_version.as_deref())
        .await?
        .ok_or_else(|| {
            Error::invalid(
                "advisories",
                format!("there is no object `{shown}` in the bucket; upload it first"),
            )
        })?;
    if head.size_bytes > MAX_ADVISORIES_BYTES {
        return Err(Error::invalid(
            "advisories",
            format!(
                "`{shown}` has {} bytes; at most {MAX_ADVISORIES_BYTES} are taken, so leave out other ecosystems than PyPI",
                head.size_bytes
            ),
        ));
    }
    // A document of the registry never changes, and has one version.
    let object_version = head
        .object_version
        .or(object_version)
        .filter(|_| key.starts_with(&keys::advisories_prefix(tenant)));
    let bytes = app
        .bucket
        .read_range(
            &key,
            object_version.as_deref(),
            &head.etag,
            0..head.size_bytes,
        )
        .await?
        .ok_or_else(|| {
            Error::new(
                ErrorCode::Unavailable,
                format!("`{shown}` changed while it was read; try again"),
            )
        })?;
    Ok(AdvisoriesFile {
        record_count: check(&bytes)?,
        key,
        object_version,
        etag: head.etag,
        size_bytes: head.size_bytes,
    })
}

/// How many records there are, or why these are no advisories.
fn check(bytes: &[u8]) -> Result<usize> {
    Advisories::from_json(bytes)
        .map(|advisories| advisories.len())
        .map_err(|error| {
            Error::invalid(
                "advisories",
                format!("the advisories are not in OSV format: {error}; give a list of records, or an object with `vulns`"),
            )
        })
}

/// What an event tells of a change: which parts, and which names came and went.
fn told(
    event: Event,
    before: &PolicyDocument,
    after: &PolicyDocument,
    revision: u64,
    limits: &Limits,
) -> Event {
    let (old, new) = (&before.policy, &after.policy);
    let changed: Vec<&str> = [
        ("allow_list", old.allow_list != new.allow_list),
        ("required", old.required != new.required),
        (
            "accepted_verdicts",
            old.accepted_verdicts != new.accepted_verdicts,
        ),
        ("rule_verdicts", old.rule_verdicts != new.rule_verdicts),
        ("advisories", before.advisories != after.advisories),
    ]
    .into_iter()
    .filter_map(|(name, is_changed)| is_changed.then_some(name))
    .collect();
    let lines =
        |policy: &Policy| -> BTreeSet<String> { policy.allow_list.iter().cloned().collect() };
    let (had, has) = (lines(old), lines(new));
    let some = |lines: Vec<&String>| json!(lines.into_iter().take(MAX_TOLD).collect::<Vec<_>>());
    event
        .with("revision", revision)
        .with("changed", changed)
        .with("allow_list_digest", limits.allow_list().digest())
        .with("allow_list_added", some(has.difference(&had).collect()))
        .with("allow_list_removed", some(had.difference(&has).collect()))
        .with("required", json!(new.required))
        .with("accepted_verdicts", json!(new.accepted_verdicts))
        .with("rule_verdicts", json!(new.rule_verdicts))
}

fn moved(current: Option<&StoredPolicy>) -> Error {
    let revision = current.map_or(0, |current| current.revision);
    Error::new(
        ErrorCode::Conflict,
        format!(
            "the validation policy is at revision {revision}; read it again, and send your change with `expected_revision: {revision}`"
        ),
    )
    .with(
        "current",
        json!({
            "revision": revision,
            "changed_by": current.map(|current| current.changed_by.clone()),
            "changed_at": current.map(|current| current.changed_at),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_which_names_came_and_went() {
        let document = |lines: &[&str]| PolicyDocument {
            policy: Policy {
                allow_list: lines.iter().map(|line| (*line).to_owned()).collect(),
                ..Policy::default()
            },
            advisories: None,
        };
        let (before, after) = (
            document(&["class a A", "class a B"]),
            document(&["class a B", "class a C"]),
        );
        let event = Event {
            id: String::new(),
            schema_version: 1,
            kind: EventType::ValidationPolicyChanged,
            tenant: TenantName::default_tenant(),
            model: None,
            model_id: None,
            version: None,
            alias: None,
            chain: None,
            sequence: None,
            actor: Principal::parse("ada").unwrap(),
            reason: None,
            time: Timestamp::default(),
            request_id: String::new(),
            data: serde_json::Map::new(),
        };
        let event = told(event, &before, &after, 2, &Limits::default());
        assert_eq!(event.data["changed"], json!(["allow_list"]));
        assert_eq!(event.data["allow_list_added"], json!(["class a C"]));
        assert_eq!(event.data["allow_list_removed"], json!(["class a A"]));
    }

    #[test]
    fn advisories_are_checked_before_they_are_taken() {
        assert_eq!(check(br#"[{"id": "X-1"}]"#).unwrap(), 1);
        assert_eq!(check(br#"{"vulns": [{"id": "X-1"}]}"#).unwrap(), 1);
        for bad in ["", "{}", "[1]", "[{}]", "x"] {
            let error = check(bad.as_bytes()).expect_err(bad);
            assert!(error.message.contains("OSV"), "{}", error.message);
        }
    }
}
