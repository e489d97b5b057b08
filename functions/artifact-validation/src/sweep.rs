//! The sweep: looks again at versions whose events were lost, and gives up on uploads that never come.

use crate::allowance::Allowance;
use crate::examine::Patience;
use crate::settle::{Settled, fail_never_arrived, find_pending, judge_if_whole};
use serde_json::{Value, json};
use shared::domain::{Timestamp, Version};
use shared::dynamodb::{WorkItem, WorkKind};
use shared::{App, Result};
use std::sync::Arc;

/// Most versions that one sweep looks at.
const MOST_ITEMS: usize = 100;
/// A version that waits this long, in milliseconds, for an inspection that cannot finish is judged incomplete.
const INCOMPLETE_MILLIS: u64 = 3_600 * 1000;

/// What is to become of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is done.
    Finish,
    /// It is due again then.
    LookAgain(Timestamp),
}

/// Looks at every version that is due; the failure of one never stops the others.
pub async fn sweep(app: &App) -> Result<Value> {
    let now = app.clock.now();
    let allowance = Arc::new(Allowance::of(app));
    let due = app
        .registry
        .due_work(WorkKind::Validate, now, MOST_ITEMS)
        .await?;
    let looked_at = due.len();
    let mut failed = 0_usize;
    for work in due {
        if let Err(error) = look(app, &work, now, &allowance).await {
            failed += 1;
            tracing::warn!(
                work.subject = work.subject,
                error = error.chain(),
                code = error.code.as_str(),
                "The sweep could not deal with a version and will look again"
            );
        }
    }
    let (read_again, failed_again) = crate::revalidate::sweep(app, &allowance).await?;
    Ok(json!({"looked_at": looked_at + read_again, "failed": failed + failed_again}))
}

/// Looks at one version, and finishes or postpones its work whatever came of it.
async fn look(
    app: &App,
    work: &WorkItem,
    now: Timestamp,
    allowance: &Arc<Allowance>,
) -> Result<()> {
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
    let version = match find_pending(app, &id).await {
        Ok(Some(version)) => version,
        Ok(None) => return app.registry.finish_work(work).await,
        Err(error) => {
            // Postponed too, so that items that cannot be read never keep others from their turn.
            let due = WorkItem::next_look(now, now);
            app.registry.postpone_work(work, due).await?;
            return Err(error);
        }
    };
    let outcome = settle_due(app, &version, now, allowance).await;
    let next = match &outcome {
        Ok(next) => *next,
        Err(_) => Next::LookAgain(next_look(&version, now, deadline(app, &version))),
    };
    match next {
        Next::Finish => app.registry.finish_work(work).await?,
        Next::LookAgain(due) => app.registry.postpone_work(work, due).await?,
    }
    outcome.map(drop)
}

async fn settle_due(
    app: &App,
    version: &Version,
    now: Timestamp,
    allowance: &Arc<Allowance>,
) -> Result<Next> {
    let deadline = deadline(app, version);
    if version.deleted_at.is_some() {
        // It may be restored, and its uploads may still come; after the deadline nobody waits for it.
        return Ok(if now >= deadline {
            Next::Finish
        } else {
            Next::LookAgain(next_look(version, now, deadline))
        });
    }
    let patience = if now.since(version.created_at) >= INCOMPLETE_MILLIS {
        Patience::Exhausted
    } else {
        Patience::Retry
    };
    match judge_if_whole(app, version, patience, allowance).await? {
        Settled::Waits(missing) if now >= deadline => {
            fail_never_arrived(app, version, &missing).await?;
            Ok(Next::Finish)
        }
        Settled::Waits(_) | Settled::Continues => {
            Ok(Next::LookAgain(next_look(version, now, deadline)))
        }
        Settled::NothingToDo | Settled::Judged(_) => Ok(Next::Finish),
    }
}

/// When a version's uploads must have come.
fn deadline(app: &App, version: &Version) -> Timestamp {
    let millis = app.config.upload_deadline_seconds.saturating_mul(1000);
    version.created_at.plus_millis(millis)
}

/// When to look again: after twice the time each time, and once when the deadline has passed.
fn next_look(version: &Version, now: Timestamp, deadline: Timestamp) -> Timestamp {
    let regular = WorkItem::next_look(version.created_at, now);
    if now < deadline {
        regular.min(deadline)
    } else {
        regular
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::version;

    #[test]
    fn the_deadline_is_never_slept_through() {
        let version = version();
        let minutes = |count: u64| Timestamp::from_millis(count * 60 * 1000);
        for (now, deadline, expected) in [
            (0, 10_000, 5),
            (20, 10_000, 40),
            (1_000, 10_000, 1_360),
            (9_900, 10_000, 10_000),
            (10_000, 10_000, 10_360),
        ] {
            assert_eq!(
                next_look(&version, minutes(now), minutes(deadline)),
                minutes(expected),
                "at minute {now}"
            );
        }
    }
}
