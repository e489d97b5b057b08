//! Promotion requests and checks whose time is over.

use super::decide::{answered, plain};
use super::tell;
use serde::Deserialize;
use shared::domain::request::{CheckStatus, Comment, RequestStatus};
use shared::domain::{EventType, ModelName};
use shared::http::Caller;
use shared::{App, Error, ErrorCode, Result};

/// Ends a request whose time is over, or fails its checks whose time is over; nothing happens if neither is so.
pub(crate) async fn expire(
    app: &App,
    tenant: &shared::domain::TenantName,
    model: &ModelName,
    id: &str,
) -> Result<()> {
    // The sweep knows the home alone; the head of the model counts its requests under the name that it has by now.
    let model = &app.registry.home_of(tenant, model).await?;
    let Some(before) = app.registry.find_request(tenant, model, id).await? else {
        return Ok(());
    };
    let now = app.clock.now();
    if before.status != RequestStatus::Open || before.due_at() > now {
        return Ok(());
    }
    let caller = Caller {
        tenant: tenant.clone(),
        principal: shared::domain::Principal::parse("slipway")?,
        groups: Vec::new(),
        scope: None,
        request_id: app.ids.next(),
        idempotency: None,
    };
    let mut after = before.clone();
    after.revision += 1;
    let mut events = Vec::new();
    if before.expires_at <= now {
        after.close(RequestStatus::Expired, now);
        events.push(tell(app, &caller, EventType::PromotionExpired, &before));
    } else if let Some(late) = before
        .checks
        .iter()
        .find(|check| check.status == CheckStatus::Pending && check.due_at <= now)
    {
        let said = Comment {
            comment: Some("it gave no answer in time".into()),
            evidence: Vec::new(),
        };
        after.answer(&late.name, CheckStatus::TimedOut, said, now)?;
        events.extend(answered(app, &caller, &before, &after, &late.name));
    }
    let change = plain(&caller, &before, after, events)?;
    // Whoever was faster decided on it.
    app.registry.change_request(&change, 1).await.map(drop)
}

/// What a piece of work about a request is about.
#[derive(Debug, Deserialize)]
struct Subject {
    tenant: shared::domain::TenantName,
    /// The home of the model, so that a renaming does not lose the work.
    model: String,
    request: String,
}

/// Looks after a request that is due.
pub(crate) async fn look_after(app: &App, work: &shared::dynamodb::WorkItem) -> Result<()> {
    let subject: Subject = serde_json::from_str(&work.subject).map_err(|error| {
        Error::new(
            ErrorCode::InvalidArgument,
            "the subject of a work item is no promotion request",
        )
        .caused_by(error)
    })?;
    let model = ModelName::of_home(subject.model)?;
    expire(app, &subject.tenant, &model, &subject.request).await?;
    let found = app
        .registry
        .find_request(&subject.tenant, &model, &subject.request)
        .await?;
    match found {
        // Somebody was faster, and it is open still: it is due again under another row, or under this one.
        Some(request) if request.status == RequestStatus::Open && request.due_at() == work.due => {
            Ok(())
        }
        _ => app.registry.finish_work(work).await,
    }
}
