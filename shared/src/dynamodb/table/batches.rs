//! Several items in one call, each for itself.

use super::{Item, Table, failed, key_map, throttled};
use crate::dynamodb::keys::Key;
use crate::error::{Error, Result};
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    DeleteRequest, KeysAndAttributes, PutRequest, ReturnConsumedCapacity, WriteRequest,
};

/// Most items that DynamoDB reads in one call.
const MOST_READ: usize = 100;
/// Most items that DynamoDB writes in one call.
const MOST_WRITTEN: usize = 25;
/// How often what a call left undone is tried again.
const ATTEMPTS: u32 = 8;

impl Table {
    /// Reads several items in as few calls as possible; the order of the answer is not that of the keys.
    pub(in crate::dynamodb) async fn batch_get(
        &self,
        keys: &[Key],
        consistent: bool,
    ) -> Result<Vec<Item>> {
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(MOST_READ) {
            let mut wanted: Vec<Item> = chunk.iter().map(key_map).collect();
            let mut attempt = 0;
            while !wanted.is_empty() {
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(wanted))
                    .consistent_read(consistent)
                    .build()
                    .map_err(|error| Error::internal("building a batch", error))?;
                let answer = self
                    .client
                    .batch_get_item()
                    .request_items(&self.name, request)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total)
                    .send()
                    .await
                    .map_err(|error| failed("reading a batch of items", error))?;
                found.extend(
                    answer
                        .responses
                        .into_iter()
                        .flatten()
                        .flat_map(|(_, items)| items),
                );
                wanted = answer
                    .unprocessed_keys
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, rest)| rest.keys)
                    .collect();
                if !wanted.is_empty() {
                    attempt += 1;
                    if attempt > ATTEMPTS {
                        return Err(throttled());
                    }
                    self.pause(attempt).await;
                }
            }
        }
        Ok(found)
    }

    /// Puts items that nobody reads before, on no condition: cheaper than a transaction, and no more than its parts.
    pub(in crate::dynamodb) async fn batch_put(&self, items: Vec<Item>) -> Result<()> {
        let requests = items
            .into_iter()
            .map(|item| {
                let put = PutRequest::builder().set_item(Some(item)).build()?;
                Ok(WriteRequest::builder().put_request(put).build())
            })
            .collect::<std::result::Result<_, BuildError>>()
            .map_err(|error| Error::internal("building a batch", error))?;
        self.batch_write(requests).await
    }

    /// Deletes items, whether they are there or not.
    pub(in crate::dynamodb) async fn batch_delete(&self, keys: &[Key]) -> Result<()> {
        let requests = keys
            .iter()
            .map(|key| {
                let delete = DeleteRequest::builder()
                    .set_key(Some(key_map(key)))
                    .build()?;
                Ok(WriteRequest::builder().delete_request(delete).build())
            })
            .collect::<std::result::Result<_, BuildError>>()
            .map_err(|error| Error::internal("building a batch", error))?;
        self.batch_write(requests).await
    }

    async fn batch_write(&self, requests: Vec<WriteRequest>) -> Result<()> {
        for chunk in requests.chunks(MOST_WRITTEN) {
            let mut wanted = chunk.to_vec();
            let mut attempt = 0;
            while !wanted.is_empty() {
                let answer = self
                    .client
                    .batch_write_item()
                    .request_items(&self.name, wanted)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total)
                    .send()
                    .await
                    .map_err(|error| failed("writing a batch of items", error))?;
                wanted = answer
                    .unprocessed_items
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, rest)| rest)
                    .collect();
                if !wanted.is_empty() {
                    attempt += 1;
                    if attempt > ATTEMPTS {
                        return Err(throttled());
                    }
                    self.pause(attempt).await;
                }
            }
        }
        Ok(())
    }
}
