//! Promotion requests: each with its place in the inbox, its claim on a target, and its hold on a version and its model.
//!
//! Version and head count the open requests, so that neither is deleted while one is open.

use super::aliases::as_seen;
use super::identity::named_as_read;
use super::{AliasChange, Committed, Page, Registry, StageChange, WorkItem, WorkKind, put_event};
use crate::domain::request::{PromotionRequest, RequestStatus};
use crate::domain::{Alias, Event, ModelName, TenantName, Timestamp, Version, VersionId};
use crate::dynamodb::idempotency::{Answer, Outcome};
use crate::dynamodb::items::{Builder, Reader, as_number};
use crate::dynamodb::keys::{self, Key};
use crate::dynamodb::table::{Expression, Item, Query, Write, sort_key, text};
use crate::error::{Error, Result};
use serde_json::json;

/// A new request.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// The tenant.
    pub tenant: TenantName,
    /// The request.
    pub request: PromotionRequest,
    /// The version, as it was seen.
    pub version: Version,
    /// The events that tell of it and of its checks.
    pub events: Vec<Event>,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

/// What became of a new request.
#[derive(Debug, Clone, PartialEq)]
pub enum Requested {
    /// It is there.
    Done(Outcome<()>),
    /// Another one is open for the same target: its id, and when it expires.
    Taken(String, Timestamp),
    /// The version is not as it was seen.
    Lost,
}

/// The promotion that the last answer to a request brings about.
#[derive(Debug, Clone)]
pub enum Promotion {
    /// Of an alias, which was seen like this.
    Alias(Box<AliasChange>, Option<Box<Alias>>),
    /// Of a stage.
    Stage(Box<StageChange>),
}

/// A decided change of a request.
#[derive(Debug, Clone)]
pub struct RequestChange {
    /// The tenant.
    pub tenant: TenantName,
    /// The request as it was seen.
    pub before: PromotionRequest,
    /// The request as it will be; its revision is one more than before.
    pub after: PromotionRequest,
    /// The events that tell it.
    pub events: Vec<Event>,
    /// The promotion that is part of it.
    pub promotion: Option<Promotion>,
    /// The answer to store under an idempotency key.
    pub answer: Option<Answer>,
}

fn request_item(tenant: &TenantName, request: &PromotionRequest) -> Result<Item> {
    Ok(
        Builder::at(&keys::request(tenant, &request.model, &request.id))
            .json("request", request)?
            .number("rev", request.revision)
            .build(),
    )
}

fn request_from_item(item: &Item, model: &ModelName) -> Result<PromotionRequest> {
    let mut request: PromotionRequest = Reader(item).json("request")?;
    request.model = model.clone();
    Ok(request)
}

fn work_of(tenant: &TenantName, request: &PromotionRequest) -> WorkItem {
    WorkItem {
        kind: WorkKind::Request,
        due: request.due_at(),
        subject: json!({"tenant": tenant, "model": request.model.home(), "request": request.id})
            .to_string(),
    }
}

fn put_work(work: &WorkItem) -> Write {
    Write::Put {
        item: work.to_item(),
        condition: None,
    }
}

/// The write of a model's head that goes with the end of a request which promotes nothing.
fn let_go(tenant: &TenantName, model: &ModelName) -> Write {
    Write::Update {
        key: keys::model(tenant, model),
        update: Expression::new("SET #reqs = #reqs - :one ADD #pointers :one")
            .value("one", as_number(1)),
        condition: named_as_read(model),
    }
}

fn claim(tenant: &TenantName, request: &PromotionRequest) -> Key {
    keys::open_request(tenant, &request.model, &request.target, request.version)
}

impl Registry {
    /// Opens a request, unless another one is open for its target.
    pub async fn open_request(&self, new: &NewRequest) -> Result<Requested> {
        let (tenant, request) = (&new.tenant, &new.request);
        let fresh = || Some(Expression::new("attribute_not_exists(#pk)"));
        let mut writes = vec![
            Write::Put {
                item: Builder::at(&claim(tenant, request))
                    .text("id", &request.id)
                    .number("expires", request.expires_at.millis())
                    .build(),
                condition: fresh(),
            },
            Write::Update {
                key: keys::version(&new.version.id),
                update: Expression::new("SET #reqs = if_not_exists(#reqs, :zero) + :one")
                    .value("zero", as_number(0))
                    .value("one", as_number(1)),
                condition: as_seen(&new.version.id.model, None, false),
            },
            Write::Put {
                item: request_item(tenant, request)?,
                condition: fresh(),
            },
            Write::Put {
                item: Builder::at(&keys::inbox_entry(tenant, &request.id))
                    .text("model", request.model.home())
                    .build(),
                condition: None,
            },
            put_work(&work_of(tenant, request)),
            Write::Update {
                key: keys::model(tenant, &new.version.id.model),
                update: Expression::new("SET #reqs = #reqs + :one ADD #pointers :one")
                    .value("one", as_number(1)),
                condition: named_as_read(&new.version.id.model)
                    .and("attribute_not_exists(#deleted)"),
            },
        ];
        for event in &new.events {
            writes.push(put_event(event)?);
        }
        self.hints.forget(&keys::version(&new.version.id));
        match self.try_commit(writes, tenant, new.answer.clone()).await? {
            Ok(outcome) => Ok(Requested::Done(outcome)),
            Err(refusals) => {
                let taken = refusals
                    .first()
                    .filter(|refusal| refusal.refused)
                    .and_then(|refusal| refusal.item.as_ref());
                match taken {
                    Some(item) => {
                        let reader = Reader(item);
                        Ok(Requested::Taken(
                            reader.text("id")?.to_owned(),
                            reader.time("expires")?,
                        ))
                    }
                    None => Ok(Requested::Lost),
                }
            }
        }
    }

    /// Reads a request, consistently.
    pub async fn find_request(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        id: &str,
    ) -> Result<Option<PromotionRequest>> {
        let item = self
            .table
            .get(&keys::request(tenant, model, id), true)
            .await?;
        item.map(|item| request_from_item(&item, model)).transpose()
    }

    /// One page of a model's requests, newest first.
    pub async fn requests(
        &self,
        tenant: &TenantName,
        model: &ModelName,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<PromotionRequest>> {
        let (model, page) = self
            .page_of(tenant, model, keys::REQUESTS, false, limit, after)
            .await?;
        Ok(Page {
            items: page
                .items
                .iter()
                .map(|item| request_from_item(item, &model))
                .collect::<Result<_>>()?,
            after: page.after,
        })
    }

    /// One page of a tenant's open requests, oldest first.
    pub async fn inbox(
        &self,
        tenant: &TenantName,
        limit: usize,
        after: Option<String>,
    ) -> Result<Page<PromotionRequest>> {
        let query = Query::new(keys::inbox(tenant))
            .limit(limit)
            .after(after)
            .consistent();
        let (entries, after) = self.table.query(query).await?;
        let wanted = entries
            .iter()
            .map(|entry| {
                let model = ModelName::of_home(Reader(entry).text("model")?)?;
                Ok(keys::request(tenant, &model, &sort_key(entry)))
            })
            .collect::<Result<Vec<_>>>()?;
        let items = self.table.batch_get(&wanted, true).await?;
        let mut requests = items
            .iter()
            .map(|item| Reader(item).json("request"))
            .collect::<Result<Vec<PromotionRequest>>>()?;
        // What was decided between the two reads is not open any more.
        requests.retain(|request| request.status == RequestStatus::Open);
        requests.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(Page {
            items: requests,
            after,
        })
    }

    /// Commits a change of a request, and the promotion that is part of it, in one transaction.
    pub async fn change_request(&self, change: &RequestChange, attempt: u32) -> Result<Committed> {
        let (tenant, request) = (&change.tenant, &change.after);
        let id = VersionId {
            tenant: tenant.clone(),
            model: request.model.clone(),
            number: request.version,
        };
        self.hints.forget(&keys::version(&id));
        if let Some(Promotion::Alias(alias, _)) = &change.promotion {
            self.forget_alias(&alias.alias);
        }
        let Some(writes) = self.request_writes(change).await? else {
            self.table.pause(attempt.min(4)).await;
            return Ok(Committed::Lost);
        };
        let outcome = self
            .try_commit(writes, tenant, change.answer.clone())
            .await?;
        Ok(match outcome {
            Ok(Outcome::Done(())) => Committed::Done,
            Ok(Outcome::Replayed(response)) => Committed::Replayed(response),
            Err(_) => {
                self.forget_heads(tenant, &request.model);
                self.table.pause(attempt.min(4)).await;
                Committed::Lost
            }
        })
    }

    /// `None` if the name means another model by now.
    async fn request_writes(&self, change: &RequestChange) -> Result<Option<Vec<Write>>> {
        let (tenant, before, after) = (&change.tenant, &change.before, &change.after);
        let mut writes = vec![Write::Put {
            item: request_item(tenant, after)?,
            condition: Some(
                Expression::new("#rev = :rev").value("rev", as_number(before.revision)),
            ),
        }];
        for event in &change.events {
            writes.push(put_event(event)?);
        }
        let (old, new) = (work_of(tenant, before), work_of(tenant, after));
        let is_open = after.status == RequestStatus::Open;
        if !is_open || old != new {
            writes.push(Write::Delete {
                key: old.key(),
                condition: None,
            });
        }
        if is_open {
            if old != new {
                writes.push(put_work(&new));
            }
            // Nothing else of this transaction looks at what the name means.
            writes.push(Write::Check {
                key: keys::model(tenant, &before.model),
                condition: named_as_read(&before.model),
            });
            return Ok(Some(writes));
        }
        writes.push(Write::Delete {
            key: claim(tenant, before),
            condition: Some(Expression::new("#id = :id").value("id", text(&before.id))),
        });
        writes.push(Write::Delete {
            key: keys::inbox_entry(tenant, &before.id),
            condition: None,
        });
        match &change.promotion {
            // The version lets go of the request in the write that promotes it.
            Some(Promotion::Alias(alias, seen)) => {
                writes.extend(Self::alias_writes(alias, seen.as_deref())?);
            }
            Some(Promotion::Stage(stage)) => match self.stage_writes(stage).await? {
                Some(more) => writes.extend(more),
                None => return Ok(None),
            },
            None => {
                let id = VersionId {
                    tenant: tenant.clone(),
                    model: before.model.clone(),
                    number: before.version,
                };
                writes.push(Write::Update {
                    key: keys::version(&id),
                    update: Expression::new("SET #reqs = #reqs - :one").value("one", as_number(1)),
                    condition: Expression::new("#reqs >= :one"),
                });
                writes.push(let_go(tenant, &before.model));
            }
        }
        if writes.len() > 99 {
            return Err(Error::internal(
                "ending a request",
                "its transaction has more than a hundred writes",
            ));
        }
        Ok(Some(writes))
    }
}
