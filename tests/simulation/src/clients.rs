//! What clients ask for, at random.

use crate::play::{Answer, RUNS_TENANT};
use axum::Router;
use axum::body::Body;
use fastrand::Rng;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use shared::App;
use shared::domain::version::{Document, Validation};
use shared::domain::{
    Digest, EventType, ModelName, Principal, Status, TenantName, VersionId, VersionNumber,
};
use shared::dynamodb::{Dispatch, Judgement, VersionChange};
use tower::ServiceExt as _;

/// The names of registered models in a run; each run begins with all but the last.
pub const MODELS: [&str; 3] = ["iris", "mnist", "rose"];
/// The aliases of each.
pub const ALIASES: [&str; 2] = ["champion", "canary"];
const STAGES: [&str; 3] = ["Staging", "Production", "Archived"];
const PLACES: [&str; 2] = ["score", "rank"];
const PEOPLE: [&str; 4] = ["ada", "ben", "cid", "dan"];
/// What a registry may say of its stages.
const STAGE_RULES: [&str; 3] = [
    r#"[{"name": "Staging"}, {"name": "Production"}, {"name": "Archived"}]"#,
    r#"[{"name": "Staging"}, {"name": "Production", "exclusive": true}, {"name": "Archived"}]"#,
    r#"[{"name": "Staging", "exclusive": true}, {"name": "Production", "exclusive": true}, {"name": "Archived"}]"#,
];
/// What must be true before a version becomes the champion.
const PROTECTIONS: [&str; 3] = [
    r#"{"aliases": ["champion"], "approval": {"needed": 1, "expires_after_hours": 1}}"#,
    r#"{"aliases": ["champion"], "approval": {"needed": 2, "expires_after_hours": 1}}"#,
    r#"{"aliases": ["champion"], "stages": ["Production"], "approval": {"needed": 1}}"#,
];

/// What a client believes of an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// The version that it holds.
    pub version: Option<u32>,
    /// How often it changed.
    pub sequence: u64,
}

/// What a client expects of an alias that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// This version, or none.
    Held(Option<u32>),
}

/// What somebody decides on a promotion request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub enum Decision {
    Approve,
    Reject,
    Withdraw,
    Promote,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub enum Wish {
    CreateModel {
        /// Whether a deleted model may lose the name.
        replace: bool,
    },
    DeleteModel,
    RestoreModel,
    Rename {
        to: &'static str,
    },
    Register,
    Judge {
        version: u32,
        ready: bool,
    },
    Finalize {
        version: u32,
    },
    SetAlias {
        alias: &'static str,
        version: u32,
        expected: Expected,
        sequence: Option<u64>,
    },
    RemoveAlias {
        alias: &'static str,
        expected: Expected,
        sequence: Option<u64>,
    },
    RollBack {
        alias: &'static str,
        to: Option<u32>,
        sequence: Option<u64>,
    },
    ChangeStage {
        version: u32,
        stage: &'static str,
        expected: Option<&'static str>,
    },
    SetLifecycle {
        version: u32,
        day: Option<u8>,
    },
    Annotate {
        version: u32,
    },
    DeleteVersion {
        version: u32,
    },
    RestoreVersion {
        version: u32,
    },
    RequestPromotion {
        version: u32,
        alias: Option<&'static str>,
        stage: Option<&'static str>,
    },
    Decide {
        id: String,
        decision: Decision,
    },
    PutStages {
        /// Whether of the model, or of the registry.
        of_model: bool,
        rules: usize,
        revision: u64,
    },
    PutProtections {
        /// Whether of the model, or of the registry.
        of_model: bool,
        rules: usize,
        revision: u64,
    },
    GrantWaiver,
    /// Revokes the first waiver of a model.
    RevokeWaivers,
    PutRollout {
        place: &'static str,
        versions: Vec<u32>,
        revision: u64,
    },
    RollRolloutBack {
        place: &'static str,
    },
    GetAlias {
        alias: &'static str,
    },
    ListVersions,
    /// Looks after what is due, as the schedule does.
    Sweep,
    /// Dispatches some of a model's events, as the stream brings them: late, twice, in any order.
    Dispatch {
        salt: usize,
    },
}

/// What a client knows when it draws a wish.
#[derive(Debug)]
pub struct Known<'a> {
    /// The highest number of a version.
    pub versions: u32,
    /// Versions that can be promoted.
    pub ready: &'a [u32],
    /// Versions that wait for their judgement.
    pub pending: &'a [u32],
    /// Open promotion requests.
    pub requests: &'a [String],
    /// Revisions that answers showed, by what they are of.
    pub revisions: &'a std::collections::BTreeMap<String, u64>,
}

impl Wish {
    /// Whether it only asks.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::GetAlias { .. } | Self::ListVersions)
    }

    /// Whether it is what the registry does by itself.
    pub fn is_housekeeping(&self) -> bool {
        matches!(self, Self::Sweep | Self::Dispatch { .. })
    }

    /// Of which revisions it is, if it replaces one.
    pub fn revises(&self, model: &str) -> Option<String> {
        match self {
            Self::PutStages { of_model, .. } => Some(settings_path("stages", *of_model, model)),
            Self::PutProtections { of_model, .. } => {
                Some(settings_path("protections", *of_model, model))
            }
            Self::PutRollout { place, .. } | Self::RollRolloutBack { place } => {
                Some((*place).to_owned())
            }
            _ => None,
        }
    }

    /// Draws a wish; versions go up to one more than there are.
    pub fn draw(
        rng: &mut Rng,
        model: &str,
        known: &Known<'_>,
        believed: impl Fn(&'static str) -> Option<Believed>,
    ) -> Self {
        let versions = known.versions;
        let mut among = |likely: &[u32]| match rng.u8(..) {
            0..200 if !likely.is_empty() => likely[rng.usize(..likely.len())],
            0..240 => rng.u32(1..=versions.max(1)),
            _ => rng.u32(versions.max(1)..=versions + 1),
        };
        let (version, pending) = (among(known.ready), among(known.pending));
        let alias = ALIASES[rng.usize(..ALIASES.len())];
        let seen = believed(alias);
        let expected = match (rng.u8(..100), seen) {
            (0..50, Some(seen)) => Expected::Held(seen.version),
            (0..50, None) => Expected::Held(None),
            (50..60, _) => Expected::Held(Some(version)),
            _ => Expected::Anything,
        };
        let sequence = seen
            .filter(|_| rng.u8(..100) < 30)
            .map(|seen| seen.sequence);
        let revision = |path: &str| known.revisions.get(path).copied().unwrap_or_default();
        match rng.u8(..160) {
            0..3 => Self::CreateModel {
                replace: rng.bool(),
            },
            3..5 => Self::DeleteModel,
            5..8 => Self::RestoreModel,
            8..18 => Self::Register,
            18..36 => Self::Judge {
                version: pending,
                ready: rng.u8(..100) < 93,
            },
            36..38 => Self::Finalize { version: pending },
            38..55 => Self::SetAlias {
                alias,
                version,
                expected,
                sequence,
            },
            55..61 => Self::RemoveAlias {
                alias,
                expected,
                sequence,
            },
            61..68 => Self::RollBack {
                alias,
                to: (rng.u8(..100) < 30).then_some(version),
                sequence,
            },
            68..80 => Self::ChangeStage {
                version,
                stage: STAGES[rng.usize(..STAGES.len())],
                expected: (rng.u8(..100) < 40).then_some("None"),
            },
            80..82 => Self::Annotate { version },
            82..87 => Self::DeleteVersion { version },
            87..90 => Self::RestoreVersion { version },
            90..95 => Self::GetAlias { alias },
            95..96 => Self::ListVersions,
            96..108 => {
                let to_alias = rng.u8(..100) < 65;
                Self::RequestPromotion {
                    version,
                    alias: to_alias.then_some(alias),
                    stage: (!to_alias).then_some(STAGES[rng.usize(..2)]),
                }
            }
            108..128 => {
                let id = match known.requests {
                    [] => "none".to_owned(),
                    open => open[rng.usize(..open.len())].clone(),
                };
                let decision = match rng.u8(..100) {
                    0..65 => Decision::Approve,
                    65..78 => Decision::Reject,
                    78..90 => Decision::Withdraw,
                    _ => Decision::Promote,
                };
                Self::Decide { id, decision }
            }
            128..131 => {
                let of_model = rng.bool();
                Self::PutStages {
                    of_model,
                    rules: rng.usize(..STAGE_RULES.len()),
                    revision: revision(&settings_path("stages", of_model, model)),
                }
            }
            131..133 => {
                let of_model = rng.bool();
                Self::PutProtections {
                    of_model,
                    rules: rng.usize(..PROTECTIONS.len()),
                    revision: revision(&settings_path("protections", of_model, model)),
                }
            }
            133..135 => Self::GrantWaiver,
            135..137 => Self::RevokeWaivers,
            137..145 => {
                let place = PLACES[rng.usize(..PLACES.len())];
                let count = rng.usize(..3);
                let mut served: Vec<u32> =
                    (0..count).map(|_| rng.u32(1..=versions.max(1))).collect();
                served.sort_unstable();
                served.dedup();
                Self::PutRollout {
                    place,
                    versions: served,
                    revision: revision(place),
                }
            }
            145..147 => Self::RollRolloutBack {
                place: PLACES[rng.usize(..PLACES.len())],
            },
            147..150 => Self::Rename {
                to: MODELS[rng.usize(..MODELS.len())],
            },
            150..153 => Self::Sweep,
            153..156 => Self::SetLifecycle {
                version,
                day: rng.bool().then(|| rng.u8(1..=9)),
            },
            _ => Self::Dispatch {
                salt: rng.usize(..100),
            },
        }
    }

    /// The wishes with which a run begins, of which model each.
    pub fn first(number: usize) -> Option<(&'static str, Self)> {
        match number {
            0 | 1 => Some((MODELS[number], Self::CreateModel { replace: false })),
            2 => Some((
                MODELS[0],
                Self::PutProtections {
                    of_model: false,
                    rules: 0,
                    revision: 0,
                },
            )),
            _ => None,
        }
    }

    /// Method, path and body of the request.
    fn request(&self, model: &str, id: usize) -> (&'static str, String, Value) {
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
            Self::Judge { .. }
            | Self::Finalize { .. }
            | Self::Sweep
            | Self::Dispatch { .. }
            | Self::RevokeWaivers => ("", String::new(), Value::Null),
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
            Self::SetLifecycle { version, day } => {
                let date = day.map(|day| format!("2030-01-0{day}T00:00:00.000Z"));
                (
                    "PUT",
                    at(&format!("/versions/{version}/lifecycle")),
                    json!({"deprecated_at": date}),
                )
            }
            Self::Annotate { version } => (
                "PATCH",
                at(&format!("/versions/{version}")),
                json!({"tags": {"wish": id.to_string()}}),
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
                protection["conditions"] = json!([]);
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

fn settings_path(kind: &str, of_model: bool, model: &str) -> String {
    if of_model {
        format!("/v1/models/{model}/{kind}")
    } else {
        format!("/v1/{kind}")
    }
}

/// Who asks for a wish; few people, so that one of them may approve twice, or what they asked for themselves.
fn person(id: usize) -> &'static str {
    PEOPLE[id % PEOPLE.len()]
}

/// Asks the registry, as one process of the functions.
pub async fn ask(
    app: App,
    router: Router,
    wish: Wish,
    model: &'static str,
    id: usize,
    key: Option<String>,
) -> Answer {
    if let Some(answer) = without_routes(&app, &wish, model, id).await {
        return answer;
    }
    let (mut method, mut path, body) = wish.request(model, id);
    if wish == Wish::RevokeWaivers {
        let listed = send(
            &router,
            id,
            None,
            ("GET", &waivers_path(model), Value::Null),
        )
        .await;
        let Some(waiver) = listed.body["waivers"][0]["id"].as_str() else {
            return listed;
        };
        (method, path) = ("DELETE", format!("{}/{waiver}", waivers_path(model)));
    }
    send(&router, id, key, (method, &path, body)).await
}

fn waivers_path(model: &str) -> String {
    format!("/v1/models/{model}/waivers")
}

async fn send(
    router: &Router,
    id: usize,
    key: Option<String>,
    (method, path, body): (&str, &str, Value),
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-request-id", format!("wish-{id}"))
        .header("x-slipway-groups", "risk")
        .header("x-slipway-actor", person(id));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        request = request.header("content-type", "application/json");
        Body::from(body.to_string())
    };
    let request = request.body(body).expect("the request is well-formed");
    let Ok(response) = router.clone().oneshot(request).await;
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    Answer {
        status,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}

/// What has no route: judging without looking at the bucket, the sweep, and dispatching.
async fn without_routes(app: &App, wish: &Wish, model: &str, number: usize) -> Option<Answer> {
    let version = match wish {
        Wish::Judge { version, .. } | Wish::Finalize { version } => *version,
        Wish::Sweep => {
            let swept =
                promote::handle(app.clone(), json!({"detail-type": "Scheduled Event"})).await;
            return Some(Answer::of(swept.is_ok()));
        }
        Wish::Dispatch { salt } => {
            let name = ModelName::parse(model).expect("the name is valid");
            let tenant = TenantName::parse(RUNS_TENANT).expect("the name is valid");
            let done = match app.registry.home_of(&tenant, &name).await {
                Ok(home) => dispatch(app, &home, *salt, 6).await.is_ok(),
                Err(_) => false,
            };
            return Some(Answer::of(done));
        }
        _ => return None,
    };
    let id = VersionId {
        tenant: TenantName::parse(RUNS_TENANT).expect("the name is valid"),
        model: ModelName::parse(model).expect("the name is valid"),
        number: VersionNumber::try_from(u64::from(version)).expect("the number is valid"),
    };
    let kind = match wish {
        Wish::Judge { ready: true, .. } => EventType::VersionReady,
        Wish::Judge { ready: false, .. } => EventType::VersionFailed,
        _ => EventType::VersionFinalized,
    };
    let actor = Principal::parse("slipway").expect("the name is valid");
    let event = app
        .event(kind, &id.tenant, &actor, &format!("wish-{number}"))
        .about(&id.model)
        .of_version(id.number);
    let change = if kind == EventType::VersionFinalized {
        VersionChange::Finalize
    } else {
        let (status, verdict) = if kind == EventType::VersionReady {
            (Status::Ready, "clean")
        } else {
            (Status::FailedRegistration, "unsafe")
        };
        VersionChange::Judge(Box::new(Judgement {
            status,
            validation: Validation {
                verdict: verdict.to_owned(),
                summary: verdict.to_owned(),
                report_digest: Digest::of(b"report"),
                policy_revision: None,
                at: event.time,
            },
            artifacts: Document::Absent,
            apart: None,
            size_bytes: 8,
            declared_at: None,
        }))
    };
    let status = match app
        .registry
        .change_version(&id, &change, &event, None)
        .await
    {
        Ok(Ok(_)) => 200,
        Ok(Err(Some(_))) => 409,
        Ok(Err(None)) => 404,
        Err(_) => 503,
    };
    Some(Answer {
        status,
        body: Value::Null,
    })
}

impl Answer {
    fn of(is_done: bool) -> Self {
        Self {
            status: if is_done { 200 } else { 503 },
            body: Value::Null,
        }
    }
}

/// Dispatches events of a model that are not chained yet, in an order that the salt decides.
pub(crate) async fn dispatch(
    app: &App,
    model: &ModelName,
    salt: usize,
    most: usize,
) -> shared::Result<()> {
    let tenant = TenantName::parse(RUNS_TENANT)?;
    let mut events = app.registry.unchained_events(&tenant, model).await?;
    let count = events.len().max(1);
    events.rotate_left(salt % count);
    if salt % 2 == 1 {
        events.reverse();
    }
    for event in events.iter().take(most) {
        let dispatch = Dispatch {
            event,
            stamp: &app.ids.next(),
            at: app.clock.now(),
            deliveries: &[],
            work: &[],
        };
        app.registry.dispatch(&dispatch).await?;
    }
    Ok(())
}
