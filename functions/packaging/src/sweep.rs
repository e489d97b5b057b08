//! The sweep: packages ready versions whose events were lost, and frees what nothing needs any more.

use crate::allowance::Allowance;
use crate::archive::{self, Made};
use crate::collect::{Next, collect};
use crate::collect_model::collect_model;
use crate::package::{Packaged, package};
use crate::retention;
use serde_json::{Value, json};
use shared::domain::{Timestamp, VersionId};
use shared::dynamodb::{WorkItem, WorkKind};
use shared::{App, Result};

/// Most versions that one sweep looks at.
const MOST_ITEMS: usize = 100;

/// Packages every version that is due; the failure of one never stops the others.
pub async fn sweep(app: &App) -> Result<Value> {
    let now = app.clock.now();
    let allowance = Allowance::of(app);
    let due = app
        .registry
        .due_work(WorkKind::Package, now, MOST_ITEMS)
        .await?;
    let mut looked_at = due.len();
    let mut failed = 0_usize;
    for work in due {
        if let Err(error) = look(app, &work, now, &allowance).await {
            failed += 1;
            tracing::warn!(
                work.subject = work.subject,
                error = error.chain(),
                code = error.code.as_str(),
                "The sweep could not package a version and will try again"
            );
        }
    }
    let archives = app
        .registry
        .due_work(WorkKind::Archive, now, MOST_ITEMS)
        .await?;
    looked_at += archives.len();
    for work in archives {
        if let Err(error) = Box::pin(archive(app, &work, now, &allowance)).await {
            failed += 1;
            tracing::warn!(
                work.subject = work.subject,
                error = error.chain(),
                code = error.code.as_str(),
                "The sweep could not make an archive and will try again"
            );
        }
    }
    let retained = app
        .registry
        .due_work(WorkKind::Retain, now, MOST_ITEMS)
        .await?;
    looked_at += retained.len();
    for work in retained {
        if let Err(error) = Box::pin(retain(app, &work, now)).await {
            failed += 1;
            tracing::warn!(
                work.subject = work.subject,
                error = error.chain(),
                code = error.code.as_str(),
                "The sweep could not apply the retention rules of a model and will try again"
            );
        }
    }
    let collected = app
        .registry
        .due_work(WorkKind::Collect, now, MOST_ITEMS)
        .await?;
    looked_at += collected.len();
    for work in collected {
        if let Err(error) = Box::pin(free(app, &work, now)).await {
            failed += 1;
            tracing::warn!(
                work.subject = work.subject,
                error = error.chain(),
                code = error.code.as_str(),
                "The sweep could not free what a version does not need, and will try again"
            );
        }
    }
    Ok(json!({"looked_at": looked_at, "failed": failed}))
}

/// Packages one version; finishes its work, or postpones it if that failed.
async fn look(app: &App, work: &WorkItem, now: Timestamp, allowance: &Allowance) -> Result<()> {
    let id = match work.version() {
        Ok(id) => id,
        Err(error) => {
            tracing::error!(
                work.subject = work.subject,
                error = error.chain(),
                "A work item is malformed and is dropped"
            );
            return app.registry.finish_work(work).await;
        }
    };
    match Box::pin(package(app, &id, allowance)).await {
        // Should the mark be lost that makes it go on, the sweep looks again.
        Ok(Packaged::Continues) => {
            let next = WorkItem::next_look(now, now);
            app.registry.postpone_work(work, next).await
        }
        Ok(_) => app.registry.finish_work(work).await,
        Err(error) => {
            let since = ready_since(app, &id).await.unwrap_or(now);
            let next = WorkItem::next_look(since, now);
            app.registry.postpone_work(work, next).await?;
            Err(error)
        }
    }
}

/// Applies the rules of a model, and postpones the work until they are to be applied again.
async fn retain(app: &App, work: &WorkItem, now: Timestamp) -> Result<()> {
    let Ok((tenant, model)) = work.model() else {
        tracing::error!(
            work.subject = work.subject,
            "A work item is malformed and is dropped"
        );
        return app.registry.finish_work(work).await;
    };
    match retention::apply(app, &tenant, &model, now).await {
        Ok(None) => app.registry.finish_work(work).await,
        Ok(Some(due)) => app.registry.postpone_work(work, due).await,
        Err(error) => {
            app.registry
                .postpone_work(work, WorkItem::next_look(now, now))
                .await?;
            Err(error)
        }
    }
}

/// Makes an archive; finishes its work, or postpones it.
async fn archive(app: &App, work: &WorkItem, now: Timestamp, allowance: &Allowance) -> Result<()> {
    let (Ok(id), Ok(format)) = (work.version(), work.archive_format()) else {
        tracing::error!(
            work.subject = work.subject,
            "A work item is malformed and is dropped"
        );
        return app.registry.finish_work(work).await;
    };
    let made = archive::make(app, &id, format, allowance).await;
    if matches!(made, Ok(Made::Done)) {
        return app.registry.finish_work(work).await;
    }
    app.registry
        .postpone_work(work, WorkItem::next_look(now, now))
        .await?;
    made.map(drop)
}

/// Frees what a version does not need, or a deleted model; finishes the work, or postpones it.
async fn free(app: &App, work: &WorkItem, now: Timestamp) -> Result<()> {
    let looked = if let Ok(id) = work.version() {
        collect(app, &id).await
    } else if let Ok((tenant, model)) = work.model() {
        collect_model(app, &tenant, &model).await
    } else {
        tracing::error!(
            work.subject = work.subject,
            "A work item is malformed and is dropped"
        );
        return app.registry.finish_work(work).await;
    };
    match looked {
        Ok(Next::Done) => app.registry.finish_work(work).await,
        Ok(Next::LookAgain(due)) => app.registry.postpone_work(work, due).await,
        Err(error) => {
            app.registry
                .postpone_work(work, WorkItem::next_look(now, now))
                .await?;
            Err(error)
        }
    }
}

/// Since when a version has been ready, if that can be told.
async fn ready_since(app: &App, id: &VersionId) -> Option<Timestamp> {
    let version = app.registry.version(id).await.ok()?;
    version.validation.map(|validation| validation.at)
}
