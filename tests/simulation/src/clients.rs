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
use shared::dynamodb::{Judgement, VersionChange};
use tower::ServiceExt as _;

/// The registered models of a run.
pub const MODELS: [&str; 2] = ["iris", "mnist"];
/// The aliases of each.
pub const ALIASES: [&str; 2] = ["champion", "canary"];
const STAGES: [&str; 3] = ["Staging", "Production", "Archived"];

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

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the API")]
pub enum Wish {
    CreateModel,
    DeleteModel,
    RestoreModel,
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
    Annotate {
        version: u32,
    },
    DeleteVersion {
        version: u32,
    },
    RestoreVersion {
        version: u32,
    },
    GetAlias {
        alias: &'static str,
    },
    ListVersions,
}

impl Wish {
    /// Whether it only asks.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::GetAlias { .. } | Self::ListVersions)
    }

    /// Draws a wish; versions go up to one more than there are.
    pub fn draw(
        rng: &mut Rng,
        versions: u32,
        believed: impl Fn(&'static str) -> Option<Believed>,
    ) -> Self {
        let version = if rng.u8(..) < 200 {
            rng.u32(1..=versions.max(1))
        } else {
            rng.u32(versions.max(1)..=versions + 1)
        };
        let alias = ALIASES[rng.usize(..ALIASES.len())];
        let known = believed(alias);
        let expected = match (rng.u8(..100), known) {
            (0..50, Some(known)) => Expected::Held(known.version),
            (0..50, None) => Expected::Held(None),
            (50..60, _) => Expected::Held(Some(version)),
            _ => Expected::Anything,
        };
        let sequence = known
            .filter(|_| rng.u8(..100) < 30)
            .map(|known| known.sequence);
        match rng.u8(..100) {
            0..4 => Self::CreateModel,
            4..6 => Self::DeleteModel,
            6..9 => Self::RestoreModel,
            9..21 => Self::Register,
            21..36 => Self::Judge {
                version,
                ready: rng.u8(..100) < 80,
            },
            36..39 => Self::Finalize { version },
            39..59 => Self::SetAlias {
                alias,
                version,
                expected,
                sequence,
            },
            59..63 => Self::RemoveAlias {
                alias,
                expected,
                sequence,
            },
            63..71 => Self::RollBack {
                alias,
                to: (rng.u8(..100) < 30).then_some(version),
                sequence,
            },
            71..79 => Self::ChangeStage {
                version,
                stage: STAGES[rng.usize(..STAGES.len())],
                expected: (rng.u8(..100) < 40).then_some("None"),
            },
            79..82 => Self::Annotate { version },
            82..86 => Self::DeleteVersion { version },
            86..90 => Self::RestoreVersion { version },
            90..97 => Self::GetAlias { alias },
            _ => Self::ListVersions,
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
        match self {
            Self::CreateModel => ("POST", "/v1/models".to_owned(), json!({"name": model})),
            Self::DeleteModel => ("DELETE", at(""), Value::Null),
            Self::RestoreModel => ("POST", at("/restore"), Value::Null),
            Self::Register => (
                "POST",
                at("/versions"),
                json!({"artifacts": [{
                    "path": "model.safetensors",
                    "size_bytes": 8,
                    "digest": Digest::of(b"weights").to_string(),
                }]}),
            ),
            Self::Judge { .. } | Self::Finalize { .. } => ("", String::new(), Value::Null),
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
            Self::GetAlias { alias } => ("GET", at(&format!("/aliases/{alias}")), Value::Null),
            Self::ListVersions => ("GET", at("/versions"), Value::Null),
        }
    }
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
    if let Some(answer) = without_bucket(&app, &wish, model, id).await {
        return answer;
    }
    let (method, path, body) = wish.request(model, id);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-slipway-actor", format!("wish-{id}"));
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
    let Ok(response) = router.oneshot(request).await;
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

/// Finalizes or judges a version as the functions do, without looking at the bucket.
async fn without_bucket(app: &App, wish: &Wish, model: &str, number: usize) -> Option<Answer> {
    let version = match wish {
        Wish::Judge { version, .. } | Wish::Finalize { version } => *version,
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
    let actor = Principal::parse(format!("wish-{number}")).expect("the name is valid");
    let event = app
        .event(kind, &id.tenant, &actor, "simulation")
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
