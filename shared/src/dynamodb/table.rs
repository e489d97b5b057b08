//! The few DynamoDB calls that the store is made of, with our error type and retries.

use crate::aws::Clients;
use crate::config::Config;
use crate::dynamodb::keys::Key;
use crate::error::{Error, ErrorCode, Result};
mod batches;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Delete, Put, ReturnConsumedCapacity,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use aws_smithy_async::rt::sleep::{AsyncSleep as _, SharedAsyncSleep};
use std::collections::HashMap;
use std::time::Duration;

/// An item as DynamoDB has it.
pub(super) type Item = HashMap<String, AttributeValue>;

/// How often a transaction that met another one is tried again.
const CONFLICT_ATTEMPTS: u32 = 12;

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: String,
    sleep: SharedAsyncSleep,
}

/// A condition or an update, with the values that it names.
#[derive(Debug, Clone, Default)]
pub(super) struct Expression {
    text: String,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Expression {
    /// An expression; each `#word` in it stands for the attribute `word`.
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let mut names = HashMap::new();
        for part in text.split('#').skip(1) {
            let word: String = part
                .chars()
                .take_while(|character| character.is_ascii_alphanumeric() || *character == '_')
                .collect();
            names.insert(format!("#{word}"), word);
        }
        Self {
            text,
            names,
            values: HashMap::new(),
        }
    }

    /// This and another condition.
    pub(super) fn and(self, other: &str) -> Self {
        let mut both = Self::new(format!("({}) AND ({other})", self.text));
        both.names.extend(self.names);
        both.values.extend(self.values);
        both
    }

    /// Lets `#word` stand for an attribute of another name, such as one that is made of a user's text.
    pub(super) fn named(mut self, word: &str, attribute: impl Into<String>) -> Self {
        self.names.insert(format!("#{word}"), attribute.into());
        self
    }

    pub(super) fn value(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(format!(":{name}"), value);
        self
    }
}

/// One write, alone or in a transaction.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Put {
        item: Item,
        condition: Option<Expression>,
    },
    Update {
        key: Key,
        update: Expression,
        condition: Expression,
    },
    Delete {
        key: Key,
        condition: Option<Expression>,
    },
    /// Changes nothing, and refuses the transaction if the condition does not hold; only within a transaction.
    Check { key: Key, condition: Expression },
}

/// Why a write of a transaction was refused, with the item as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal {
    /// Whether this write's condition was the reason.
    pub(super) refused: bool,
    /// The item as it is, if there is one.
    pub(super) item: Option<Item>,
}

/// A query over one partition.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) pk: String,
    pub(super) range: Range,
    pub(super) forward: bool,
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    pub(super) consistent: bool,
}

/// Which sort keys.
#[derive(Debug, Clone)]
pub(super) enum Range {
    All,
    Prefix(String),
    Between(String, String),
}

impl Query {
    pub(super) fn new(pk: impl Into<String>) -> Self {
        Self {
            pk: pk.into(),
            range: Range::All,
            forward: true,
            limit: 1000,
            after: None,
            consistent: false,
        }
    }

    pub(super) fn prefix(mut self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.range = if prefix.is_empty() {
            Range::All
        } else {
            Range::Prefix(prefix)
        };
        self
    }

    pub(super) fn between(mut self, low: impl Into<String>, high: impl Into<String>) -> Self {
        self.range = Range::Between(low.into(), high.into());
        self
    }

    pub(super) fn backward(mut self) -> Self {
        self.forward = false;
        self
    }

    pub(super) fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    pub(super) fn after(mut self, after: Option<String>) -> Self {
        self.after = after;
        self
    }

    pub(super) fn consistent(mut self) -> Self {
        self.consistent = true;
        self
    }
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn bytes(value: Vec<u8>) -> AttributeValue {
    AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new(value))
}

pub(super) fn number(value: impl std::fmt::Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn key_map(key: &Key) -> Item {
    HashMap::from([
        ("pk".to_owned(), text(&key.pk)),
        ("sk".to_owned(), text(&key.sk)),
    ])
}

/// The sort key of an item.
pub(super) fn sort_key(item: &Item) -> String {
    item.get("sk")
        .and_then(|value| value.as_s().ok())
        .cloned()
        .unwrap_or_default()
}

impl Table {
    pub(super) fn new(clients: &Clients, config: &Config) -> Self {
        Self {
            client: clients.dynamodb(),
            name: config.table.clone(),
            sleep: clients.sleep(),
        }
    }

    /// Waits a little before another attempt: longer each time, and never two alike.
    pub(super) async fn pause(&self, attempt: u32) {
        let ceiling_ms = (5_u64 << attempt.min(6)).min(250);
        let drawn = u64::from_le_bytes(random_bytes()[..8].try_into().unwrap_or_default());
        self.wait(1 + drawn % ceiling_ms).await;
    }

    /// Waits for so many milliseconds.
    pub(super) async fn wait(&self, millis: u64) {
        self.sleep.sleep(Duration::from_millis(millis)).await;
    }

    pub(super) async fn get(&self, key: &Key, consistent: bool) -> Result<Option<Item>> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.name)
            .set_key(Some(key_map(key)))
            .consistent_read(consistent)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await
            .map_err(|error| failed("reading an item", error))?;
        Ok(answer.item)
    }

    /// One page of a partition, and the sort key to go on after if there may be more.
    pub(super) async fn query(&self, query: Query) -> Result<(Vec<Item>, Option<String>)> {
        let mut values = HashMap::from([(":pk".to_owned(), text(&query.pk))]);
        let condition = match &query.range {
            Range::All => "pk = :pk",
            Range::Prefix(prefix) => {
                values.insert(":prefix".to_owned(), text(prefix));
                "pk = :pk AND begins_with(sk, :prefix)"
            }
            Range::Between(low, high) => {
                values.insert(":low".to_owned(), text(low));
                values.insert(":high".to_owned(), text(high));
                "pk = :pk AND sk BETWEEN :low AND :high"
            }
        };
        let start = query.after.as_ref().map(|sk| {
            key_map(&Key {
                pk: query.pk.clone(),
                sk: sk.clone(),
            })
        });
        let answer = self
            .client
            .query()
            .table_name(&self.name)
            .key_condition_expression(condition)
            .set_expression_attribute_values(Some(values))
            .scan_index_forward(query.forward)
            .limit(i32::try_from(query.limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start)
            .consistent_read(query.consistent)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await
            .map_err(|error| failed("querying a partition", error))?;
        let after = answer.last_evaluated_key.as_ref().map(sort_key);
        Ok((answer.items.unwrap_or_default(), after))
    }

    /// Every item of a partition's range, page by page, at most `most`.
    pub(super) async fn query_all(&self, query: Query, most: usize) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let (page, next) = self.query(query.clone().after(after)).await?;
            items.extend(page);
            after = next;
            if after.is_none() || items.len() >= most {
                return Ok(items);
            }
        }
    }

    /// One write alone: cheaper than a transaction. A refused condition is `Err(refusal)` inside.
    pub(super) async fn write(&self, write: Write) -> Result<std::result::Result<(), Refusal>> {
        let all_old = ReturnValuesOnConditionCheckFailure::AllOld;
        let capacity = ReturnConsumedCapacity::Total;
        match write {
            Write::Put { item, condition } => {
                let condition = condition.unwrap_or_default();
                let sent = self
                    .client
                    .put_item()
                    .table_name(&self.name)
                    .set_item(Some(item))
                    .set_condition_expression(some(condition.text))
                    .set_expression_attribute_names(some_map(condition.names))
                    .set_expression_attribute_values(some_map(condition.values))
                    .return_values_on_condition_check_failure(all_old)
                    .return_consumed_capacity(capacity)
                    .send()
                    .await;
                refusal_of(sent, |error| {
                    match error {
                    aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(refused) => {
                        Some(refused.item.clone())
                    }
                    _ => None,
                }
                })
            }
            Write::Update {
                key,
                update,
                condition,
            } => {
                let sent = self
                    .client
                    .update_item()
                    .table_name(&self.name)
                    .set_key(Some(key_map(&key)))
                    .update_expression(update.text)
                    .set_condition_expression(some(condition.text))
                    .set_expression_attribute_names(some_map(merged(update.names, condition.names)))
                    .set_expression_attribute_values(some_map(merged(
                        update.values,
                        condition.values,
                    )))
                    .return_values_on_condition_check_failure(all_old)
                    .return_consumed_capacity(capacity)
                    .send()
                    .await;
                refusal_of(sent, |error| {
                    match error {
                    aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
                        refused,
                    ) => Some(refused.item.clone()),
                    _ => None,
                }
                })
            }
            Write::Delete { key, condition } => {
                let condition = condition.unwrap_or_default();
                let sent = self
                    .client
                    .delete_item()
                    .table_name(&self.name)
                    .set_key(Some(key_map(&key)))
                    .set_condition_expression(some(condition.text))
                    .set_expression_attribute_names(some_map(condition.names))
                    .set_expression_attribute_values(some_map(condition.values))
                    .return_values_on_condition_check_failure(all_old)
                    .return_consumed_capacity(capacity)
                    .send()
                    .await;
                refusal_of(sent, |error| {
                    match error {
                    aws_sdk_dynamodb::operation::delete_item::DeleteItemError::ConditionalCheckFailedException(
                        refused,
                    ) => Some(refused.item.clone()),
                    _ => None,
                }
                })
            }
            Write::Check { .. } => Err(Error::internal(
                "writing an item",
                "a check alone writes nothing",
            )),
        }
    }

    /// All writes or none. If conditions refuse it, the answer has one [`Refusal`] per write, in order.
    pub(super) async fn transact(
        &self,
        writes: &[Write],
    ) -> Result<std::result::Result<(), Vec<Refusal>>> {
        let items = writes
            .iter()
            .map(|write| self.transact_item(write))
            .collect::<Result<Vec<_>>>()?;
        // One token for all attempts: an earlier one may have been applied although its answer was lost.
        let token = hex::encode(random_bytes());
        let mut attempt = 0;
        loop {
            let sent = self
                .client
                .transact_write_items()
                .set_transact_items(Some(items.clone()))
                .client_request_token(&token)
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await;
            let Err(error) = sent else {
                return Ok(Ok(()));
            };
            let reasons: Vec<CancellationReason> = match error.as_service_error() {
                Some(service) if service.is_transaction_canceled_exception() => match service {
                    aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(canceled) => {
                        canceled.cancellation_reasons.clone().unwrap_or_default()
                    }
                    _ => Vec::new(),
                },
                _ => return Err(failed("committing a change", error)),
            };
            if reasons
                .iter()
                .any(|reason| reason.code() == Some("ConditionalCheckFailed"))
            {
                return Ok(Err(reasons
                    .into_iter()
                    .map(|reason| Refusal {
                        refused: reason.code() == Some("ConditionalCheckFailed"),
                        item: reason.item,
                    })
                    .collect()));
            }
            let may_pass = |code: &str| {
                matches!(
                    code,
                    "TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded"
                )
            };
            if !reasons
                .iter()
                .filter_map(CancellationReason::code)
                .any(may_pass)
            {
                return Err(failed("committing a change", error));
            }
            attempt += 1;
            if attempt >= CONFLICT_ATTEMPTS {
                return Err(throttled());
            }
            self.pause(attempt).await;
        }
    }

    fn transact_item(&self, write: &Write) -> Result<TransactWriteItem> {
        let all_old = ReturnValuesOnConditionCheckFailure::AllOld;
        let builder = TransactWriteItem::builder();
        let built = match write.clone() {
            Write::Put { item, condition } => {
                let condition = condition.unwrap_or_default();
                Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(item))
                    .set_condition_expression(some(condition.text))
                    .set_expression_attribute_names(some_map(condition.names))
                    .set_expression_attribute_values(some_map(condition.values))
                    .return_values_on_condition_check_failure(all_old)
                    .build()
                    .map(|put| builder.put(put))
            }
            Write::Update {
                key,
                update,
                condition,
            } => Update::builder()
                .table_name(&self.name)
                .set_key(Some(key_map(&key)))
                .update_expression(update.text)
                .set_condition_expression(some(condition.text))
                .set_expression_attribute_names(some_map(merged(update.names, condition.names)))
                .set_expression_attribute_values(some_map(merged(update.values, condition.values)))
                .return_values_on_condition_check_failure(all_old)
                .build()
                .map(|update| builder.update(update)),
            Write::Delete { key, condition } => {
                let condition = condition.unwrap_or_default();
                Delete::builder()
                    .table_name(&self.name)
                    .set_key(Some(key_map(&key)))
                    .set_condition_expression(some(condition.text))
                    .set_expression_attribute_names(some_map(condition.names))
                    .set_expression_attribute_values(some_map(condition.values))
                    .return_values_on_condition_check_failure(all_old)
                    .build()
                    .map(|delete| builder.delete(delete))
            }
            Write::Check { key, condition } => ConditionCheck::builder()
                .table_name(&self.name)
                .set_key(Some(key_map(&key)))
                .condition_expression(condition.text)
                .set_expression_attribute_names(some_map(condition.names))
                .set_expression_attribute_values(some_map(condition.values))
                .return_values_on_condition_check_failure(all_old)
                .build()
                .map(|check| builder.condition_check(check)),
        };
        Ok(built
            .map_err(|error| Error::internal("building a transaction", error))?
            .build())
    }
}

/// Random bytes of the system.
fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// The error for too much at once.
pub(super) fn throttled() -> Error {
    Error::new(
        ErrorCode::Throttled,
        "too many changes of the same thing at once; try again after a moment",
    )
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn some_map<V>(map: HashMap<String, V>) -> Option<HashMap<String, V>> {
    Some(map).filter(|map| !map.is_empty())
}

fn merged<V>(mut left: HashMap<String, V>, right: HashMap<String, V>) -> HashMap<String, V> {
    left.extend(right);
    left
}

fn refusal_of<T, E, R>(
    sent: std::result::Result<T, SdkError<E, R>>,
    refused: impl Fn(&E) -> Option<Option<Item>>,
) -> Result<std::result::Result<(), Refusal>>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    match sent {
        Ok(_) => Ok(Ok(())),
        Err(error) => match error.as_service_error().and_then(refused) {
            Some(item) => Ok(Err(Refusal {
                refused: true,
                item,
            })),
            None => Err(failed("writing an item", error)),
        },
    }
}

/// Turns an SDK error into ours: throttling and lost connections may pass, everything else is a fault.
pub(super) fn failed<E, R>(doing: &str, error: SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let code = match &error {
        SdkError::ServiceError(service) => match service.err().code() {
            Some(
                "ProvisionedThroughputExceededException"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "TransactionConflictException"
                | "TransactionInProgressException",
            ) => ErrorCode::Throttled,
            Some("InternalServerError" | "ServiceUnavailable") => ErrorCode::Unavailable,
            _ => ErrorCode::Internal,
        },
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            ErrorCode::Unavailable
        }
        _ => ErrorCode::Internal,
    };
    match code {
        ErrorCode::Throttled => throttled().caused_by(error),
        code => Error::new(code, format!("DynamoDB: {doing}")).caused_by(error),
    }
}
