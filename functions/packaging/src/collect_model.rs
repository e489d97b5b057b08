//! Frees what a deleted model holds, once it cannot be restored any more: each of its versions is purged.

use crate::collect::{Next, purge};
use shared::domain::{ModelName, TenantName};
use shared::dynamodb::{Deleted, WorkItem, WorkKind};
use shared::{App, Result};

/// How long after the restore window a purge begins, in milliseconds: clocks of two processes may differ by less.
const CLOCKS_DIFFER_MILLIS: u64 = 5 * 60_000;
/// Most versions that one look purges.
const MOST_AT_ONCE: usize = 100;
/// How long until a look goes on that had more to purge, in milliseconds.
const SOON_MILLIS: u64 = 60_000;

/// Purges the versions of a model whose restore window is over; when to look again, unless nothing of it is left.
pub(crate) async fn collect_model(
    app: &App,
    tenant: &TenantName,
    home: &ModelName,
) -> Result<Next> {
    let Some(name) = app.registry.find_home(tenant, home).await? else {
        return Ok(Next::Done);
    };
    let model = app.registry.model(tenant, &name).await?;
    // It was restored; should it be deleted again, that makes work of its own.
    let Some(deleted_at) = model.deleted_at else {
        return Ok(Next::Done);
    };
    let now = app.clock.now();
    let window = app.config.restore_seconds.saturating_mul(1000);
    let due = deleted_at.plus_millis(window + CLOCKS_DIFFER_MILLIS);
    if now < due {
        return Ok(Next::LookAgain(due));
    }
    let mut versions = app.registry.every_version(tenant, &model.name).await?;
    versions.retain(|version| version.purged_at.is_none());
    let has_more = versions.len() > MOST_AT_ONCE;
    let second_look = now.plus_millis(app.config.collect_grace_seconds.saturating_mul(1000));
    for version in versions.iter().take(MOST_AT_ONCE) {
        // First, so that what a crash leaves of a version that was purged is found.
        app.registry
            .add_work(&WorkItem::about_version(
                WorkKind::Collect,
                second_look,
                &version.id,
            )?)
            .await?;
        purge(app, version, Deleted::Model(&model)).await?;
    }
    Ok(if has_more {
        Next::LookAgain(now.plus_millis(SOON_MILLIS))
    } else {
        Next::Done
    })
}
