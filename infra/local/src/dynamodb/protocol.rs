//! The DynamoDB protocol without a socket, for clients in this process.
//!
//! The operations are those that ask for items and change them; `dynoxide`'s own server, which [`Engine::serve`] runs,
//! knows all others as well. Requests take turns: a task that waits for the database gives its thread to others.

use std::num::NonZeroUsize;

use dynoxide::{Database, DynoxideError, actions::transact_write_items::TransactWriteItemsRequest};
use lru::LruCache;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::Mutex;

use super::Engine;

/// What comes before the operation in `x-amz-target`.
const TARGET_PREFIX: &str = "DynamoDB_20120810.";

/// How many transactions are remembered by their token; AWS remembers all of the last ten minutes.
///
/// A transaction is sent again within seconds or never, and `dynoxide` would look through all tokens with every one.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1_000).expect("it is not zero");

/// Whose turn it is, and what was answered to the last transactions.
#[derive(Debug)]
pub(super) struct Turn(Mutex<LruCache<String, Answer>>);

impl Default for Turn {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// JSON.
    pub(crate) body: String,
}

impl Engine {
    /// Answers a request, or nothing where only the server knows the operation.
    pub(crate) async fn answer(&self, target: &str, body: &[u8]) -> Option<Answer> {
        let answer = match target.strip_prefix(TARGET_PREFIX)? {
            "GetItem" => self.run(body, Database::get_item).await,
            "BatchGetItem" => self.run(body, Database::batch_get_item).await,
            "Query" => self.run(body, Database::query).await,
            "PutItem" => self.run(body, Database::put_item).await,
            "UpdateItem" => self.run(body, Database::update_item).await,
            "DeleteItem" => self.run(body, Database::delete_item).await,
            "BatchWriteItem" => self.run(body, Database::batch_write_item).await,
            "TransactWriteItems" => self.transact(body).await,
            _ => return None,
        };
        Some(answer)
    }

    async fn run<Q: DeserializeOwned, A: Serialize>(
        &self,
        body: &[u8],
        call: impl FnOnce(&Database, Q) -> Result<A, DynoxideError>,
    ) -> Answer {
        let request = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return unreadable(&error),
        };
        let outcome = {
            let _turn = self.inner.turn.0.lock().await;
            call(self.database(), request)
        };
        rendered(&outcome)
    }

    /// A transaction that comes again under its token was applied, and is answered as it was.
    async fn transact(&self, body: &[u8]) -> Answer {
        let mut request: TransactWriteItemsRequest = match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => return unreadable(&error),
        };
        let token = request.client_request_token.take();
        let mut applied = self.inner.turn.0.lock().await;
        if let Some(answer) = token.as_ref().and_then(|token| applied.get(token)) {
            return answer.clone();
        }
        let outcome = self.database().transact_write_items(request);
        let answer = rendered(&outcome);
        if let (Some(token), Ok(_)) = (token, outcome) {
            applied.put(token, answer.clone());
        }
        answer
    }
}

fn unreadable(error: &serde_json::Error) -> Answer {
    let kind = "com.amazon.coral.service#SerializationException";
    Answer {
        status: 400,
        body: json!({ "__type": kind, "message": error.to_string() }).to_string(),
    }
}

fn rendered<A: Serialize>(outcome: &Result<A, DynoxideError>) -> Answer {
    let failure;
    let error = match outcome {
        Ok(answer) => match serde_json::to_string(answer) {
            Ok(body) => return Answer { status: 200, body },
            Err(error) => {
                failure = DynoxideError::InternalServerError(error.to_string());
                &failure
            }
        },
        Err(error) => error,
    };
    Answer {
        status: error.status_code(),
        body: error.to_json(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_folder::DataFolder;
    use serde_json::Value;
    use std::{sync::Arc, time::SystemTime};

    async fn ask(engine: &Engine, operation: &str, body: Value) -> (u16, Value) {
        let target = format!("{TARGET_PREFIX}{operation}");
        let answer = engine.answer(&target, body.to_string().as_bytes()).await;
        let answer = answer.expect("the operation is known");
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    fn engine() -> Engine {
        let folder = DataFolder::temporary().unwrap();
        let engine = Engine::open(&folder, Arc::new(|| SystemTime::UNIX_EPOCH)).unwrap();
        engine.create_table(crate::definition::table()).unwrap();
        engine
    }

    #[tokio::test]
    async fn a_transaction_that_comes_again_under_its_token_is_not_applied_twice() {
        let engine = engine();
        let key = json!({"pk": {"S": "a"}, "sk": {"S": "1"}});
        let table = crate::definition::TABLE;
        let add = |token: &str| {
            json!({
                "ClientRequestToken": token,
                "TransactItems": [{"Update": {
                    "TableName": table, "Key": key, "UpdateExpression": "ADD v :by",
                    "ExpressionAttributeValues": {":by": {"N": "1"}},
                }}],
            })
        };
        for (token, expected) in [("one", "1"), ("one", "1"), ("two", "2")] {
            assert_eq!(ask(&engine, "TransactWriteItems", add(token)).await.0, 200);
            let get = json!({"TableName": table, "Key": key});
            let (_, found) = ask(&engine, "GetItem", get).await;
            assert_eq!(found["Item"]["v"]["N"], expected);
        }
    }

    #[tokio::test]
    async fn a_refusal_names_its_reason_and_what_only_the_server_knows_is_left_to_it() {
        let engine = engine();
        let table = crate::definition::TABLE;
        let put = json!({
            "TableName": table, "Item": {"pk": {"S": "a"}, "sk": {"S": "1"}},
            "ConditionExpression": "attribute_exists(pk)",
        });
        let (status, refusal) = ask(&engine, "PutItem", put).await;
        assert_eq!(status, 400);
        let kind = refusal["__type"].as_str().unwrap();
        assert!(kind.ends_with("#ConditionalCheckFailedException"), "{kind}");
        let (status, refusal) = ask(&engine, "PutItem", json!({"TableName": 7})).await;
        assert_eq!(status, 400);
        let kind = refusal["__type"].as_str().unwrap();
        assert!(kind.ends_with("#SerializationException"), "{kind}");
        assert!(
            engine
                .answer("DynamoDB_20120810.ListTables", b"{}")
                .await
                .is_none()
        );
    }
}
