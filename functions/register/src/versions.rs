//! Versions: register, annotate, delete, restore.

use crate::models::{tag_pairs, tags_removed, tags_set};
use serde::Deserialize;
use serde_json::{Number, Value};
use shared::documents::{INLINE_BYTES, Placed};
use shared::domain::artifact::check_declaration;
use shared::domain::metadata::{Code, Dataset, Framework, Run, Signature};
use shared::domain::model::{MAX_REASON, Notes, NotesChange, check_text};
use shared::domain::version::{Document, Origin, version_not_found};
use shared::domain::{
    ArtifactPath, DeclaredArtifact, Digest, EventType, Metadata, ModelName, Source, Standing,
    Status, Version, VersionId,
};
use shared::dynamodb::{Outcome, Registration, VersionChange};
use shared::http::Caller;
use shared::http::views::VersionView;
use shared::s3::keys;
use shared::{App, Error, ErrorCode, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Registers the next version of a model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegisterVersion {
    artifacts: Vec<ArtifactBody>,
    #[serde(default)]
    run: Option<Run>,
    #[serde(default)]
    framework: Option<Framework>,
    #[serde(default)]
    hyper_parameters: BTreeMap<String, Value>,
    #[serde(default)]
    metrics: BTreeMap<String, Number>,
    #[serde(default)]
    datasets: Vec<Dataset>,
    #[serde(default)]
    code: Option<Code>,
    #[serde(default)]
    environment_files: Vec<String>,
    #[serde(default)]
    signature: Option<Signature>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// What a client declares of one artifact.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArtifactBody {
    path: ArtifactPath,
    size_bytes: u64,
    digest: Digest,
    #[serde(default)]
    media_type: Option<String>,
}

impl RegisterVersion {
    fn parse(self) -> Result<Draft> {
        let metadata = Metadata {
            run: self.run,
            framework: self.framework,
            hyper_parameters: self.hyper_parameters,
            metrics: self.metrics,
            datasets: self.datasets,
            code: self.code,
            environment_files: self.environment_files,
            signature: self.signature,
            author: self.author,
        };
        let artifacts = self
            .artifacts
            .into_iter()
            .map(|artifact| {
                Ok(DeclaredArtifact {
                    media_type: artifact.media_type.map(media_type).transpose()?,
                    path: artifact.path,
                    size_bytes: artifact.size_bytes,
                    digest: Some(artifact.digest),
                    key: None,
                    object_version: None,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let notes = Notes {
            description: self.description,
            tags: self.tags,
        };
        if let Some(missing) = metadata.environment_files.iter().find(|file| {
            !artifacts
                .iter()
                .any(|artifact| artifact.path.as_str() == file.as_str())
        }) {
            return Err(Error::invalid(
                "environment_files",
                format!(
                    "environment file `{}` is not among the artifacts; declare it there too",
                    missing
                        .chars()
                        .take(60)
                        .flat_map(char::escape_debug)
                        .collect::<String>()
                ),
            ));
        }
        notes.check()?;
        Ok(Draft {
            artifacts,
            metadata,
            notes,
            source: Source::Upload,
            origin: None,
        })
    }
}

/// A media type as HTTP headers carry it: short, visible ASCII, with a slash.
fn media_type(text: String) -> Result<String> {
    let plain = text.len() <= 100 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let halves = text
        .split_once('/')
        .is_some_and(|(left, right)| !left.trim().is_empty() && !right.trim().is_empty());
    if plain && halves {
        Ok(text)
    } else {
        Err(Error::invalid(
            "media_type",
            "a media type looks like `application/json`; leave it out if unknown",
        ))
    }
}

/// A version that is about to be registered.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) artifacts: Vec<DeclaredArtifact>,
    pub(crate) metadata: Metadata,
    pub(crate) notes: Notes,
    pub(crate) source: Source,
    /// Where it came from, if it was registered by URI; only then it may have no artifacts.
    pub(crate) origin: Option<Origin>,
}

/// How an edge shows a version: its status and the body, for the answer that goes under an idempotency key too.
pub(crate) type Show<'a> = (u16, &'a (dyn Fn(&Version) -> Value + Send + Sync));

pub(crate) async fn register(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    command: RegisterVersion,
) -> Result<Outcome<VersionView>> {
    let draft = command.parse()?;
    let show = |version: &Version| native(app, version);
    let outcome = register_draft(app, caller, model, draft, (201, &show)).await?;
    Ok(outcome.map(|version| VersionView::of(app, &version)))
}

/// As the native API shows a version.
pub(crate) fn native(app: &App, version: &Version) -> Value {
    serde_json::to_value(VersionView::of(app, version)).unwrap_or_default()
}

/// Registers a version whose declaration is complete, however it came.
pub(crate) async fn register_draft(
    app: &App,
    caller: &Caller,
    model: &ModelName,
    draft: Draft,
    (status_code, show): Show<'_>,
) -> Result<Outcome<Version>> {
    let Draft {
        mut artifacts,
        metadata,
        notes,
        source,
        origin,
    } = draft;
    if artifacts.is_empty() && origin.is_none() {
        return Err(Error::invalid(
            "artifacts",
            "the version declares no artifact; declare at least one",
        ));
    }
    artifacts.sort_by(|left, right| left.path.cmp(&right.path));
    // What lies elsewhere is a reference: nothing of it is to come, and nobody will look at it.
    let is_reference = artifacts.is_empty();
    if !is_reference {
        check_declaration(&artifacts)?;
    }
    metadata.check()?;
    notes.check_size()?;
    let metadata_json = serde_json::to_vec(&metadata)
        .map_err(|error| Error::internal("writing metadata", error))?;
    let metadata_digest = Digest::of(&metadata_json);
    // The list of artifacts is read by most later steps, so it gets the room in the version's item first.
    let mut room = INLINE_BYTES;
    // The version has no number yet, so its documents get a folder of their own.
    let owner = app.ids.next();
    let placed_artifacts = if is_reference {
        Placed::default()
    } else {
        app.place_document(&caller.tenant, &owner, &artifacts, &mut room)
            .await?
    };
    let placed_notes = if notes.is_empty() {
        Placed::default()
    } else {
        app.place_document(&caller.tenant, &owner, &notes, &mut room)
            .await?
    };
    let placed_metadata = if metadata == Metadata::default() {
        Placed::default()
    } else {
        app.place_document(&caller.tenant, &owner, &metadata, &mut room)
            .await?
    };
    let size_bytes = artifacts.iter().map(|artifact| artifact.size_bytes).sum();
    let now = app.clock.now();
    let event = app.event(
        EventType::VersionRegistered,
        &caller.tenant,
        &caller.principal,
        &caller.request_id,
    );
    let registering = app.registry.register(&caller.tenant, model, |head| {
        head.require_live()?;
        let id = VersionId {
            tenant: caller.tenant.clone(),
            model: head.name.clone(),
            number: head.next_version,
        };
        for artifact in &artifacts {
            keys::incoming(&id, &artifact.path)?;
        }
        let version = Version {
            id,
            status: if is_reference {
                Status::Ready
            } else {
                Status::PendingRegistration
            },
            stage: Version::first_stage(),
            alias_count: 0,
            registered_by: caller.principal.clone(),
            request_id: caller.request_id.clone(),
            created_at: now,
            updated_at: now,
            finalized_at: None,
            deleted_at: None,
            purged_at: None,
            aliases: BTreeSet::new(),
            origin: origin.clone(),
            artifact_count: artifacts.len() as u64,
            size_bytes,
            metadata: placed_metadata.document.clone(),
            artifacts: placed_artifacts.document.clone(),
            notes: placed_notes.document.clone(),
            metadata_digest: metadata_digest.clone(),
            revision: 1,
            validation: None,
            package: None,
            standing: Standing {
                source,
                ..Standing::default()
            },
            files_of: None,
            declared_at: None,
            revoked_at: None,
        };
        let documents = [
            ("artifacts", &placed_artifacts),
            ("notes", &placed_notes),
            ("metadata", &placed_metadata),
        ]
        .into_iter()
        .filter_map(|(name, placed)| placed.apart.clone().map(|json| (name, json)))
        .collect();
        let mut event = event
            .clone()
            .about(&version.id.model)
            .of_version(version.id.number)
            .with("artifact_count", version.artifact_count)
            .with("size_bytes", version.size_bytes);
        if let Some(origin) = &version.origin {
            event = event
                .with("status", version.status.as_str())
                .with("source", origin.source.as_str());
            let told = [("run_id", &origin.run_id), ("model_id", &origin.model_id)];
            for (name, id) in told {
                if let Some(id) = id {
                    event = event.with(name, id.as_str());
                }
            }
        }
        Ok(Registration {
            event,
            answer: caller.answer(status_code, &show(&version), now)?,
            documents,
            version,
        })
    });
    // It is large, and its callers hold it.
    let outcome = Box::pin(registering).await?;
    if let Outcome::Done(version) = &outcome {
        tracing::info!(
            model.name = model.as_str(),
            version.number = version.id.number.get(),
            "Registered {}",
            version.id
        );
    }
    Ok(outcome)
}

pub(crate) async fn annotate(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    change: &NotesChange,
) -> Result<Outcome<Value>> {
    let noted = Noted {
        change,
        is_native: true,
        keeps_time: false,
    };
    annotate_shown(app, caller, id, noted, |version, _| native(app, version)).await
}

/// A change of notes, and how it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noted<'a> {
    pub(crate) change: &'a NotesChange,
    /// Whether the limits of the native API hold.
    pub(crate) is_native: bool,
    /// Whether the version counts as unchanged: a tag is no change of it to MLflow's clients.
    pub(crate) keeps_time: bool,
}

/// Changes notes and answers as an edge shows the version.
pub(crate) async fn annotate_shown(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    noted: Noted<'_>,
    show: impl Fn(&Version, &Notes) -> Value,
) -> Result<Outcome<Value>> {
    let Noted {
        change,
        is_native,
        keeps_time,
    } = noted;
    let before = app.registry.version(id).await?;
    before.require_live()?;
    let id = &before.id;
    let old: Notes = app
        .load_document(id, "notes", &before.notes)
        .await?
        .unwrap_or_default();
    let new = old.changed(change);
    if keeps_time && new == old {
        return app.keep_unchanged(caller, 200, show(&before, &old)).await;
    }
    if is_native {
        new.check_changed(&old, change)?;
    } else {
        new.check_size()?;
    }
    let inline = |document: &Document| match document {
        Document::Inline(json) => json.len(),
        _ => 0,
    };
    let mut room =
        INLINE_BYTES.saturating_sub(inline(&before.metadata) + inline(&before.artifacts));
    let placed = if new.is_empty() {
        Placed::default()
    } else {
        app.place_document(&id.tenant, &keys::documents_of(id), &new, &mut room)
            .await?
    };
    let event = app
        .event(
            EventType::VersionUpdated,
            &id.tenant,
            &caller.principal,
            &caller.request_id,
        )
        .about(&id.model)
        .of_version(id.number)
        .with("tags_changed", tag_pairs(&old, &new))
        .with("tags_set", tags_set(&old, &new))
        .with("tags_removed", tags_removed(&old, &new))
        .with("description_changed", old.description != new.description);
    let after = Version {
        notes: placed.document.clone(),
        revision: before.revision + 1,
        updated_at: if keeps_time {
            before.updated_at
        } else {
            event.time
        },
        ..before.clone()
    };
    let view = show(&after, &new);
    let answer = caller.answer(200, &view, event.time)?;
    let change = VersionChange::Annotate {
        notes: placed.document,
        apart: placed.apart,
        revision: before.revision,
        updated_at: after.updated_at,
    };
    match app
        .registry
        .change_version(id, &change, &event, answer)
        .await?
    {
        Ok(outcome) => Ok(outcome.map(|()| view)),
        Err(_) => Err(Error::new(
            ErrorCode::Conflict,
            format!("{id} was changed meanwhile; read it again and decide anew"),
        )),
    }
}

pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    reason: Option<String>,
) -> Result<Outcome<Value>> {
    delete_shown(app, caller, id, reason, &|version| native(app, version)).await
}

/// Deletes a version and answers as an edge shows it.
pub(crate) async fn delete_shown(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    reason: Option<String>,
    show: &(dyn Fn(&Version) -> Value + Send + Sync),
) -> Result<Outcome<Value>> {
    change_existence(
        app,
        caller,
        id,
        |_| VersionChange::Delete,
        EventType::VersionDeleted,
        reason,
        show,
    )
    .await
}

pub(crate) async fn restore(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    reason: Option<String>,
) -> Result<Outcome<Value>> {
    change_existence(
        app,
        caller,
        id,
        |before| VersionChange::Restore {
            stage: before.stage.clone(),
        },
        EventType::VersionRestored,
        reason,
        &|version| native(app, version),
    )
    .await
}

/// Deletes or restores; a version that is so already is answered as it is.
async fn change_existence(
    app: &App,
    caller: &Caller,
    id: &VersionId,
    change: impl Fn(&Version) -> VersionChange,
    kind: EventType,
    reason: Option<String>,
    show: &(dyn Fn(&Version) -> Value + Send + Sync),
) -> Result<Outcome<Value>> {
    check_text("reason", reason.as_deref(), MAX_REASON)?;
    let before = app.registry.version(id).await?;
    let id = &before.id;
    let event = app
        .event(kind, &id.tenant, &caller.principal, &caller.request_id)
        .about(&id.model)
        .of_version(id.number)
        .because(reason);
    let is_deletion = kind == EventType::VersionDeleted;
    let after = Version {
        deleted_at: is_deletion.then_some(event.time),
        updated_at: event.time,
        ..before.clone()
    };
    let view = show(&after);
    let answer = caller.answer(200, &view, event.time)?;
    match app
        .registry
        .change_version(id, &change(&before), &event, answer)
        .await?
    {
        Ok(outcome) => {
            if outcome == Outcome::Done(()) {
                tracing::info!(
                    model.name = id.model.as_str(),
                    version.number = id.number.get(),
                    "{kind}: {id}"
                );
            }
            Ok(outcome.map(|()| view))
        }
        Err(None) => Err(version_not_found(id)),
        Err(Some(version)) if is_deletion && version.alias_count > 0 => {
            let aliases = app.registry.aliases(&id.tenant, &id.model).await?;
            let names: Vec<&str> = aliases
                .iter()
                .filter(|alias| alias.version == Some(id.number))
                .map(|alias| alias.name.as_str())
                .collect();
            Err(Error::new(
                ErrorCode::VersionInUse,
                format!(
                    "{id} is held by the alias `{}`; move or remove it first",
                    names.join("`, `")
                ),
            )
            .with("aliases", names))
        }
        Err(Some(version))
            if is_deletion && version.standing.open_requests + version.standing.rollouts > 0 =>
        {
            let advice = if version.standing.rollouts > 0 {
                "is served by a rollout; change the rollout first"
            } else {
                "awaits a decision on its promotion; decide on the request or withdraw it first"
            };
            Err(Error::new(
                ErrorCode::VersionInUse,
                format!("{id} {advice}"),
            ))
        }
        Err(Some(version)) if !is_deletion && version.purged_at.is_some() => Err(Error::new(
            ErrorCode::Deleted,
            format!("{id} was purged and its files are gone; register a new version"),
        )
        .with("model", id.model.as_str())
        .with("version", id.number.get())),
        Err(Some(version)) => app.keep_unchanged(caller, 200, show(&version)).await,
    }
}
