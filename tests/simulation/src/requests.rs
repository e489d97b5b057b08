//! Wishes as requests of the API.

use crate::wishes::{Decision, Expected, PROTECTIONS, STAGE_RULES, Wish, settings_path};
use serde_json::{Value, json};
use shared::domain::Digest;

impl Wish {
    /// Method, path and body of the request.
    pub(crate) fn request(&self, model: &str, id: usize) -> (&'static str, String, Value) {
        let at = |rest: &str| format!("/v1/models/{model}{rest}");
        let reason = format!("wish {id}");
        let expecting = |expected: &Expected, sequence: &Option<u64>| {
            let mut body = json!({"reason": reason});
            match expected {
                Expected::Anything => body["unconditional"] = true.into(),
                Expected::Held(version) => body["expected_version"] = json!(version),
            }
            if let Some(sequence) = sequence {
                body["expected_sequence"] = json!(sequence);
            }
            body
        };
        let parsed =
            |text: &str| -> Value { serde_json::from_str(text).expect("the literal is JSON") };
        match self {
            Self::CreateModel { replace } => (
                "POST",
                "/v1/models".to_owned(),
                json!({"name": model, "replace_deleted": replace}),
            ),
            Self::DeleteModel => ("DELETE", at(""), Value::Null),
            Self::RestoreModel => ("POST", at("/restore"), Value::Null),
            Self::Rename { to } => ("POST", at("/rename"), json!({"name": to})),
            Self::Register => (
                "POST",
                at("/versions"),
                json!({"artifacts": [{
                    "path": "model.safetensors",
                    "size_bytes": 8,
                    "digest": Digest::of(b"weights").to_string(),
                }]}),
            ),
            Self::Describe => (
                "PATCH",
                at(""),
                json!({"tags": {"owned": if id.is_multiple_of(2) { "yes" } else { "no" }}}),
            ),
            Self::Judge { .. }
            | Self::Rejudge { .. }
            | Self::Finalize { .. }
            | Self::Pack { .. }
            | Self::Purge { .. }
            | Self::Sweep
            | Self::Dispatch { .. }
            | Self::AnswerCheck { .. }
            | Self::RevokeWaiver => ("", String::new(), Value::Null),
            Self::SetAlias {
                alias,
                version,
                expected,
                sequence,
            } => {
                let mut body = expecting(expected, sequence);
                body["version"] = json!(version);
                ("PUT", at(&format!("/aliases/{alias}")), body)
            }
            Self::RemoveAlias {
                alias,
                expected,
                sequence,
            } => (
                "DELETE",
                at(&format!("/aliases/{alias}")),
                expecting(expected, sequence),
            ),
            Self::RollBack {
                alias,
                to,
                sequence,
            } => {
                let mut body = json!({"reason": reason});
                if let Some(to) = to {
                    body["to_version"] = json!(to);
                }
                if let Some(sequence) = sequence {
                    body["expected_sequence"] = json!(sequence);
                }
                ("POST", at(&format!("/aliases/{alias}/rollback")), body)
            }
            Self::ChangeStage {
                version,
                stage,
                expected,
            } => {
                let mut body = json!({"stage": stage, "reason": reason});
                if let Some(expected) = expected {
                    body["expected_stage"] = json!(expected);
                }
                ("POST", at(&format!("/versions/{version}/stage")), body)
            }
            Self::SetLifecycle { version, hour, end } => {
                let date =
                    |hour: Option<u8>| hour.map(|hour| format!("2027-01-15T{hour:02}:00:00.000Z"));
                (
                    "PUT",
                    at(&format!("/versions/{version}/lifecycle")),
                    json!({"deprecated_at": date(*hour), "end_of_life_at": date(*end)}),
                )
            }
            Self::Annotate { version, fit, mark } => (
                "PATCH",
                at(&format!("/versions/{version}")),
                json!({"tags": {
                    format!("mark{mark}"): id.to_string(),
                    "fit": if *fit { "yes" } else { "no" },
                }}),
            ),
            Self::DeleteVersion { version } => {
                ("DELETE", at(&format!("/versions/{version}")), Value::Null)
            }
            Self::RestoreVersion { version } => (
                "POST",
                at(&format!("/versions/{version}/restore")),
                Value::Null,
            ),
            Self::RequestPromotion {
                version,
                alias,
                stage,
            } => (
                "POST",
                at("/promotion-requests"),
                json!({"version": version, "alias": alias, "stage": stage}),
            ),
            Self::Decide { id, decision } => {
                let verb = match decision {
                    Decision::Approve => "approve",
                    Decision::Reject => "reject",
                    Decision::Withdraw => "withdraw",
                    Decision::Promote => "promote",
                };
                let path = at(&format!("/promotion-requests/{id}/{verb}"));
                ("POST", path, json!({}))
            }
            Self::PutStages {
                of_model,
                rules,
                revision,
            } => (
                "PUT",
                settings_path("stages", *of_model, model),
                json!({"expected_revision": revision, "stages": parsed(STAGE_RULES[*rules]),
                    "transitions": {"Archived": ["None", "Staging"]}}),
            ),
            Self::PutProtections {
                of_model,
                rules,
                revision,
            } => {
                let mut protection = parsed(PROTECTIONS[*rules]);
                protection["id"] = "p".into();
                if protection["conditions"].is_null() {
                    protection["conditions"] = json!([]);
                }
                protection["waiver_groups"] = json!(["risk"]);
                (
                    "PUT",
                    settings_path("protections", *of_model, model),
                    json!({"expected_revision": revision, "protections": [protection]}),
                )
            }
            Self::GrantWaiver => (
                "POST",
                at("/waivers"),
                json!({"conditions": ["registry/p/approval"], "reason": reason,
                    "expires_at": "2027-02-01T00:00:00.000Z"}),
            ),
            Self::PutRollout {
                place,
                versions,
                revision,
            } => {
                let share = 10_000 / versions.len().max(1);
                let deployments: Vec<Value> = versions
                    .iter()
                    .map(|version| {
                        let role = if versions.len() > 1 {
                            "variant"
                        } else {
                            "champion"
                        };
                        json!({"version": version, "role": role, "weight": share})
                    })
                    .collect();
                let strategy = if versions.len() > 1 {
                    "ab_test"
                } else {
                    "single"
                };
                (
                    "PUT",
                    format!("/v1/rollouts/prod/{place}"),
                    json!({"model": model, "strategy": strategy, "deployments": deployments,
                        "expected_revision": revision, "reason": reason}),
                )
            }
            Self::RollRolloutBack { place } => (
                "POST",
                format!("/v1/rollouts/prod/{place}/rollback"),
                json!({"reason": reason}),
            ),
            Self::GetAlias { alias } => ("GET", at(&format!("/aliases/{alias}")), Value::Null),
            Self::ListVersions => ("GET", at("/versions"), Value::Null),
        }
    }
}
