//! Buckets: they exist, have a region, and may keep versions.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, params};
use s3s::dto::{
    Bucket, BucketVersioningStatus, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketVersioningInput, GetBucketVersioningOutput, ListBucketsInput,
    ListBucketsOutput, Owner, PutBucketVersioningInput, PutBucketVersioningOutput,
};
use s3s::{S3Request, S3Response, s3_error};

use super::store::{Outcome, Store, from_ms, versioning};

/// The one owner of everything.
pub(super) fn owner() -> Owner {
    Owner {
        display_name: Some("slipway".to_owned()),
        id: Some("slipway".to_owned()),
    }
}

pub(super) async fn create(
    store: &Arc<Store>,
    request: S3Request<CreateBucketInput>,
) -> Outcome<S3Response<CreateBucketOutput>> {
    let bucket = request.input.bucket;
    let location = format!("/{bucket}");
    store
        .write(move |change| {
            let created = change.transaction.execute(
                "INSERT OR IGNORE INTO buckets (name, created_ms) VALUES (?1, ?2)",
                params![bucket, change.now_ms],
            )?;
            if created == 0 {
                return Err(s3_error!(
                    BucketAlreadyOwnedByYou,
                    "Your previous request to create the named bucket succeeded and you already own it."
                )
                .into());
            }
            Ok(())
        })
        .await?;
    Ok(S3Response::new(CreateBucketOutput {
        location: Some(location),
    }))
}

/// Makes a bucket with versioning, or turns versioning on where the bucket exists.
pub(super) async fn ensure_versioned(store: &Arc<Store>, bucket: String) -> Outcome<()> {
    store
        .write(move |change| {
            change.transaction.execute(
                "INSERT INTO buckets (name, created_ms, versioning) VALUES (?1, ?2, 'Enabled')
                 ON CONFLICT (name) DO UPDATE SET versioning = 'Enabled'",
                params![bucket, change.now_ms],
            )?;
            Ok(())
        })
        .await
}

pub(super) async fn delete(
    store: &Arc<Store>,
    request: S3Request<DeleteBucketInput>,
) -> Outcome<S3Response<DeleteBucketOutput>> {
    let bucket = request.input.bucket;
    store
        .write(move |change| {
            versioning(&change.transaction, &bucket)?;
            let used: Option<i64> = change
                .transaction
                .query_row(
                    "SELECT 1 FROM objects WHERE bucket = ?1
                     UNION ALL SELECT 1 FROM uploads WHERE bucket = ?1 AND completion IS NULL LIMIT 1",
                    [&bucket],
                    |row| row.get(0),
                )
                .optional()?;
            if used.is_some() {
                return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty").into());
            }
            change.transaction.execute("DELETE FROM uploads WHERE bucket = ?1", [&bucket])?;
            change.transaction.execute("DELETE FROM buckets WHERE name = ?1", [&bucket])?;
            Ok(())
        })
        .await?;
    Ok(S3Response::with_status(
        DeleteBucketOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}

/// Fails unless the bucket is there.
pub(super) async fn exists(store: &Arc<Store>, bucket: String) -> Outcome<()> {
    store
        .read(move |connection| versioning(connection, &bucket).map(drop))
        .await
}

pub(super) async fn list(
    store: &Arc<Store>,
    region: String,
    request: S3Request<ListBucketsInput>,
) -> Outcome<S3Response<ListBucketsOutput>> {
    let prefix = request.input.prefix.clone().unwrap_or_default();
    let buckets = store
        .read(move |connection| {
            let found: Vec<(String, i64)> = connection
                .prepare_cached("SELECT name, created_ms FROM buckets ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            Ok(found)
        })
        .await?
        .into_iter()
        .filter(|(name, _)| name.starts_with(&prefix))
        .map(|(name, created_ms)| Bucket {
            bucket_region: Some(region.clone()),
            creation_date: Some(from_ms(created_ms).into()),
            name: Some(name),
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        owner: Some(owner()),
        prefix: request.input.prefix,
        ..Default::default()
    }))
}

pub(super) async fn get_versioning(
    store: &Arc<Store>,
    request: S3Request<GetBucketVersioningInput>,
) -> Outcome<S3Response<GetBucketVersioningOutput>> {
    let bucket = request.input.bucket;
    let status = store
        .read(move |connection| versioning(connection, &bucket))
        .await?;
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from),
        ..Default::default()
    }))
}

pub(super) async fn put_versioning(
    store: &Arc<Store>,
    request: S3Request<PutBucketVersioningInput>,
) -> Outcome<S3Response<PutBucketVersioningOutput>> {
    let input = request.input;
    let status = input
        .versioning_configuration
        .status
        .filter(|status| matches!(status.as_str(), "Enabled" | "Suspended"))
        .ok_or_else(|| {
            s3_error!(
                IllegalVersioningConfigurationException,
                "The Versioning element must be specified"
            )
        })?;
    store
        .write(move |change| {
            versioning(&change.transaction, &input.bucket)?;
            change.transaction.execute(
                "UPDATE buckets SET versioning = ?2 WHERE name = ?1",
                params![input.bucket, status.as_str()],
            )?;
            Ok(())
        })
        .await?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}
