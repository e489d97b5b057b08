//! Listings: keys in byte order, rolled up at a delimiter, page by page.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::{Connection, Row, params};
use s3s::dto::{
    ChecksumAlgorithm, ChecksumType, CommonPrefix, DeleteMarkerEntry, ETag, EncodingType,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectVersionsInput,
    ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, MultipartUpload, Object, ObjectStorageClass, ObjectVersion,
    ObjectVersionStorageClass, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::buckets::owner;
use super::multipart::Plan;
use super::notifications::form_encoded;
use super::objects::{coverage, signed};
use super::store::{Outcome, Store, Version, from_ms, json_at, key_at, versioning};

/// What a listing is limited to.
struct Scope {
    prefix: String,
    delimiter: Option<String>,
    limit: usize,
    max: i32,
    encoded: bool,
}

impl Scope {
    fn new(
        prefix: Option<String>,
        delimiter: Option<String>,
        max: Option<i32>,
        encoding: Option<&EncodingType>,
    ) -> S3Result<Self> {
        let max = max.unwrap_or(1000);
        let limit = usize::try_from(max).map_err(|_| {
            s3_error!(
                InvalidArgument,
                "Argument maxKeys must be an integer between 0 and 2147483647"
            )
        })?;
        Ok(Self {
            prefix: prefix.unwrap_or_default(),
            delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()),
            limit: limit.min(1000),
            max: max.min(1000),
            encoded: encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL),
        })
    }

    fn encode(&self, text: String) -> String {
        if self.encoded {
            form_encoded(&text)
        } else {
            text
        }
    }

    fn common_prefix<'a>(&self, key: &'a str) -> Option<&'a str> {
        let delimiter = self.delimiter.as_deref()?;
        let at = key[self.prefix.len()..].find(delimiter)?;
        Some(&key[..self.prefix.len() + at + delimiter.len()])
    }

    /// Where a page begins that follows an entry: after a key, or after everything under a rolled-up prefix.
    fn after(&self, marker: &str) -> Vec<u8> {
        let rolled_up =
            marker.starts_with(&self.prefix) && self.common_prefix(marker) == Some(marker);
        let next = if rolled_up {
            successor(marker)
        } else {
            [marker.as_bytes(), &[0]].concat()
        };
        next.max(self.prefix.clone().into_bytes())
    }

    fn common_prefixes(&self, prefixes: Vec<String>) -> Option<Vec<CommonPrefix>> {
        let prefixes: Vec<_> = prefixes
            .into_iter()
            .map(|prefix| CommonPrefix {
                prefix: Some(self.encode(prefix)),
            })
            .collect();
        (!prefixes.is_empty()).then_some(prefixes)
    }
}

/// The first byte string after everything that starts with this text.
fn successor(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        // UTF-8 has no byte 0xFF, so this never overflows.
        *last += 1;
    }
    bytes
}

/// Where rows begin: at a key, and within it after a version or an upload.
struct Start {
    key: Vec<u8>,
    within: Option<String>,
}

struct Page<T> {
    rows: Vec<T>,
    prefixes: Vec<String>,
    /// The last entry, if more follow.
    next: Option<Last>,
}

struct Last {
    key: String,
    /// Names the row among those of its key; absent for a rolled-up prefix.
    within: Option<String>,
}

/// A row that can be listed.
trait Listed: Sized {
    const SQL: &'static str;
    /// Sorts before every other `within` of a key.
    const FIRST: &'static str;
    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;
    fn key(&self) -> &str;
    fn within(&self) -> String;
}

/// Walks the rows and skips over whatever a rolled-up prefix stands for.
fn walk<T: Listed>(
    connection: &Connection,
    bucket: &str,
    scope: &Scope,
    mut start: Start,
) -> Outcome<Page<T>> {
    versioning(connection, bucket)?;
    let mut page = Page {
        rows: Vec::new(),
        prefixes: Vec::new(),
        next: None,
    };
    if scope.limit == 0 {
        return Ok(page);
    }
    let mut last = None;
    let mut statement = connection.prepare_cached(T::SQL)?;
    'seek: loop {
        let within = start.within.as_deref().unwrap_or(T::FIRST);
        let mut rows = statement.query(params![bucket, start.key, within])?;
        while let Some(row) = rows.next()? {
            let item = T::read(row)?;
            if !item.key().starts_with(&scope.prefix) {
                break;
            }
            if page.rows.len() + page.prefixes.len() == scope.limit {
                page.next = last;
                return Ok(page);
            }
            if let Some(prefix) = scope.common_prefix(item.key()) {
                start = Start {
                    key: successor(prefix),
                    within: None,
                };
                last = Some(Last {
                    key: prefix.to_owned(),
                    within: None,
                });
                page.prefixes.push(prefix.to_owned());
                continue 'seek;
            }
            last = Some(Last {
                key: item.key().to_owned(),
                within: Some(item.within()),
            });
            page.rows.push(item);
        }
        return Ok(page);
    }
}

/// The newest version of a key.
struct Current(Version);

impl Listed for Current {
    const SQL: &'static str =
        "SELECT seq, key, version_id, latest, marker, content, size, etag, modified_ms, checksum,
            headers, tags, parts FROM objects
        WHERE bucket = ?1 AND key >= ?2 AND latest AND NOT marker AND ?3 = '' ORDER BY key";
    const FIRST: &'static str = "";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Version::read(row).map(Self)
    }

    fn key(&self) -> &str {
        &self.0.key
    }

    fn within(&self) -> String {
        String::new()
    }
}

impl Listed for Version {
    const SQL: &'static str = "SELECT seq, key, version_id, latest, marker, content, size, etag, modified_ms, checksum,
            headers, tags, parts FROM objects
        WHERE bucket = ?1 AND key >= ?2 AND (key > ?2 OR seq < CAST(?3 AS INTEGER)) ORDER BY key, seq DESC";
    const FIRST: &'static str = "9223372036854775807";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Self::read(row)
    }

    fn key(&self) -> &str {
        &self.key
    }

    fn within(&self) -> String {
        self.version_id.clone()
    }
}

struct Upload {
    id: String,
    key: String,
    initiated_ms: i64,
    plan: Plan,
}

impl Listed for Upload {
    const SQL: &'static str = "SELECT id, key, initiated_ms, plan FROM uploads
        WHERE bucket = ?1 AND completion IS NULL AND key >= ?2 AND (key > ?2 OR id > ?3) ORDER BY key, id";
    const FIRST: &'static str = "";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            key: key_at(row, 1)?,
            initiated_ms: row.get(2)?,
            plan: json_at(row, 3)?,
        })
    }

    fn key(&self) -> &str {
        &self.key
    }

    fn within(&self) -> String {
        self.id.clone()
    }
}

fn object(scope: &Scope, version: Version, with_owner: bool) -> Object {
    Object {
        checksum_algorithm: version
            .checksum
            .as_ref()
            .map(|checksum| vec![ChecksumAlgorithm::from_static(checksum.algorithm.name())]),
        checksum_type: coverage(version.checksum.as_ref()),
        last_modified: Some(version.modified()),
        e_tag: Some(ETag::Strong(version.etag)),
        key: Some(scope.encode(version.key)),
        owner: with_owner.then(owner),
        size: Some(signed(version.size)),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..Default::default()
    }
}

async fn current(
    store: &Arc<Store>,
    bucket: String,
    scope: Scope,
    marker: Option<String>,
) -> Outcome<(Scope, Page<Current>)> {
    store
        .read(move |connection| {
            let key = match &marker {
                Some(marker) => scope.after(marker),
                None => scope.prefix.clone().into_bytes(),
            };
            let page = walk(connection, &bucket, &scope, Start { key, within: None })?;
            Ok((scope, page))
        })
        .await
}

pub(super) async fn objects_v2(
    store: &Arc<Store>,
    request: S3Request<ListObjectsV2Input>,
) -> Outcome<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let scope = Scope::new(
        input.prefix.clone(),
        input.delimiter.clone(),
        input.max_keys,
        input.encoding_type.as_ref(),
    )?;
    let marker = match &input.continuation_token {
        Some(token) => {
            let marker = URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|token| String::from_utf8(token).ok());
            Some(marker.ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "The continuation token provided is incorrect"
                )
            })?)
        }
        None => input.start_after.clone().filter(|after| !after.is_empty()),
    };
    let (scope, page) = current(store, input.bucket.clone(), scope, marker).await?;
    let with_owner = input.fetch_owner == Some(true);
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        key_count: i32::try_from(page.rows.len() + page.prefixes.len()).ok(),
        max_keys: Some(scope.max),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.map(|last| URL_SAFE_NO_PAD.encode(last.key)),
        continuation_token: input.continuation_token,
        common_prefixes: scope.common_prefixes(page.prefixes),
        contents: Some(
            page.rows
                .into_iter()
                .map(|row| object(&scope, row.0, with_owner))
                .collect(),
        ),
        prefix: Some(scope.encode(input.prefix.unwrap_or_default())),
        delimiter: input.delimiter.map(|delimiter| scope.encode(delimiter)),
        start_after: input.start_after.map(|after| scope.encode(after)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub(super) async fn objects_v1(
    store: &Arc<Store>,
    request: S3Request<ListObjectsInput>,
) -> Outcome<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let scope = Scope::new(
        input.prefix.clone(),
        input.delimiter.clone(),
        input.max_keys,
        input.encoding_type.as_ref(),
    )?;
    let marker = input.marker.clone().filter(|marker| !marker.is_empty());
    let (scope, page) = current(store, input.bucket.clone(), scope, marker).await?;
    // S3 names the next marker only where a delimiter makes it hard to guess.
    let next_marker = page
        .next
        .as_ref()
        .filter(|_| scope.delimiter.is_some())
        .map(|last| scope.encode(last.key.clone()));
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        max_keys: Some(scope.max),
        is_truncated: Some(page.next.is_some()),
        next_marker,
        common_prefixes: scope.common_prefixes(page.prefixes),
        contents: Some(
            page.rows
                .into_iter()
                .map(|row| object(&scope, row.0, true))
                .collect(),
        ),
        prefix: Some(scope.encode(input.prefix.unwrap_or_default())),
        marker: Some(scope.encode(input.marker.unwrap_or_default())),
        delimiter: input.delimiter.map(|delimiter| scope.encode(delimiter)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

/// Finds the place of a version among those of its key.
fn seq_of(connection: &Connection, bucket: &str, key: &str, version_id: &str) -> Outcome<String> {
    let seq: Result<i64, _> = connection
        .prepare_cached(
            "SELECT seq FROM objects WHERE bucket = ?1 AND key = ?2 AND version_id = ?3",
        )?
        .query_row(params![bucket, key.as_bytes(), version_id], |row| {
            row.get(0)
        });
    match seq {
        Ok(seq) => Ok(seq.to_string()),
        Err(rusqlite::Error::QueryReturnedNoRows) => {
            Err(s3_error!(InvalidArgument, "Invalid version id specified").into())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn versions(
    store: &Arc<Store>,
    request: S3Request<ListObjectVersionsInput>,
) -> Outcome<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    let scope = Scope::new(
        input.prefix.clone(),
        input.delimiter.clone(),
        input.max_keys,
        input.encoding_type.as_ref(),
    )?;
    let bucket = input.bucket.clone();
    let key_marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
    let version_marker = input
        .version_id_marker
        .clone()
        .filter(|marker| !marker.is_empty());
    let (scope, page) = store
        .read(move |connection| {
            let start = match (key_marker, version_marker) {
                (Some(key), Some(version)) => Start {
                    within: Some(seq_of(connection, &bucket, &key, &version)?),
                    key: key.into_bytes(),
                },
                (Some(key), None) => Start {
                    key: scope.after(&key),
                    within: None,
                },
                (None, _) => Start {
                    key: scope.prefix.clone().into_bytes(),
                    within: None,
                },
            };
            let page = walk::<Version>(connection, &bucket, &scope, start)?;
            Ok((scope, page))
        })
        .await?;
    let mut versions = Vec::new();
    let mut markers = Vec::new();
    for version in page.rows {
        if version.marker {
            markers.push(DeleteMarkerEntry {
                is_latest: Some(version.latest),
                last_modified: Some(version.modified()),
                key: Some(scope.encode(version.key)),
                owner: Some(owner()),
                version_id: Some(version.version_id),
            });
        } else {
            let latest = version.latest;
            let version_id = version.version_id.clone();
            let object = object(&scope, version, true);
            versions.push(ObjectVersion {
                checksum_algorithm: object.checksum_algorithm,
                checksum_type: object.checksum_type,
                e_tag: object.e_tag,
                is_latest: Some(latest),
                key: object.key,
                last_modified: object.last_modified,
                owner: object.owner,
                size: object.size,
                storage_class: Some(ObjectVersionStorageClass::from_static(
                    ObjectVersionStorageClass::STANDARD,
                )),
                version_id: Some(version_id),
                ..Default::default()
            });
        }
    }
    let truncated = page.next.is_some();
    let (next_key_marker, next_version_id_marker) = page.next.map_or((None, None), |last| {
        (Some(scope.encode(last.key)), last.within)
    });
    Ok(S3Response::new(ListObjectVersionsOutput {
        name: Some(input.bucket),
        max_keys: Some(scope.max),
        is_truncated: Some(truncated),
        next_key_marker,
        next_version_id_marker,
        common_prefixes: scope.common_prefixes(page.prefixes),
        versions: Some(versions),
        delete_markers: Some(markers),
        prefix: Some(scope.encode(input.prefix.unwrap_or_default())),
        key_marker: Some(scope.encode(input.key_marker.unwrap_or_default())),
        version_id_marker: input.version_id_marker,
        delimiter: input.delimiter.map(|delimiter| scope.encode(delimiter)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub(super) async fn uploads(
    store: &Arc<Store>,
    request: S3Request<ListMultipartUploadsInput>,
) -> Outcome<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let scope = Scope::new(
        input.prefix.clone(),
        input.delimiter.clone(),
        input.max_uploads,
        input.encoding_type.as_ref(),
    )?;
    let bucket = input.bucket.clone();
    let key_marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
    let id_marker = input
        .upload_id_marker
        .clone()
        .filter(|marker| !marker.is_empty());
    let (scope, page) = store
        .read(move |connection| {
            let start = match (key_marker, id_marker) {
                (Some(key), Some(id)) => Start {
                    key: key.into_bytes(),
                    within: Some(id),
                },
                (Some(key), None) => Start {
                    key: scope.after(&key),
                    within: None,
                },
                (None, _) => Start {
                    key: scope.prefix.clone().into_bytes(),
                    within: None,
                },
            };
            let page = walk::<Upload>(connection, &bucket, &scope, start)?;
            Ok((scope, page))
        })
        .await?;
    let uploads = page
        .rows
        .into_iter()
        .map(|upload| MultipartUpload {
            checksum_algorithm: Some(ChecksumAlgorithm::from_static(upload.plan.algorithm.name())),
            checksum_type: Some(ChecksumType::from_static(upload.plan.coverage.name())),
            initiated: Some(from_ms(upload.initiated_ms).into()),
            key: Some(scope.encode(upload.key)),
            owner: Some(owner()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(upload.id),
            ..Default::default()
        })
        .collect();
    let truncated = page.next.is_some();
    let (next_key_marker, next_upload_id_marker) = page.next.map_or((None, None), |last| {
        (Some(scope.encode(last.key)), last.within)
    });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        max_uploads: Some(scope.max),
        is_truncated: Some(truncated),
        next_key_marker,
        next_upload_id_marker,
        common_prefixes: scope.common_prefixes(page.prefixes),
        uploads: Some(uploads),
        prefix: Some(scope.encode(input.prefix.unwrap_or_default())),
        key_marker: Some(scope.encode(input.key_marker.unwrap_or_default())),
        upload_id_marker: input.upload_id_marker,
        delimiter: input.delimiter.map(|delimiter| scope.encode(delimiter)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
