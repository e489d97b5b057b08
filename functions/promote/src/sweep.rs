//! The sweep: dates of versions that have come, requests and checks whose time is over.

use crate::{lifecycle, requests};
use serde_json::{Value, json};
use shared::dynamodb::{WorkItem, WorkKind};
use shared::{App, ErrorCode, Result};

/// Most pieces of work of one kind that one sweep looks at.
const MOST_ITEMS: usize = 100;

/// Looks after all that is due; the failure of one never stops the others.
pub(crate) async fn run(app: &App) -> Result<Value> {
    let now = app.clock.now();
    let (mut looked_at, mut failed) = (0_usize, 0_usize);
    for kind in [WorkKind::Lifecycle, WorkKind::Request] {
        for work in app.registry.due_work(kind, now, MOST_ITEMS).await? {
            looked_at += 1;
            if let Err(error) = look(app, &work).await {
                failed += 1;
                tracing::warn!(
                    work.subject = work.subject,
                    error = error.chain(),
                    code = error.code.as_str(),
                    "The sweep could not look after a piece of work and will try again"
                );
            }
        }
    }
    Ok(json!({"looked_at": looked_at, "failed": failed}))
}

async fn look(app: &App, work: &WorkItem) -> Result<()> {
    let outcome = match work.kind {
        WorkKind::Request => requests::look_after(app, work).await,
        _ => lifecycle::tell(app, work).await,
    };
    match outcome {
        Err(error) if error.code == ErrorCode::InvalidArgument => {
            tracing::error!(
                work.subject = work.subject,
                error = error.chain(),
                "A work item is malformed and is dropped"
            );
            app.registry.finish_work(work).await
        }
        outcome => outcome,
    }
}
