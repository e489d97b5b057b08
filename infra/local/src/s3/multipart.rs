//! Multipart uploads: parts are blobs, and completing one only writes down their order.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, CopyPartResult,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, ListPartsInput, ListPartsOutput,
    Part, Range, StorageClass, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use super::blobs::fresh_id;
use super::bodies::{self, Announced};
use super::checksums::{
    Algorithm, Checksum, Coverage, bad_digest, claimed_checksums, combine, multipart_etag,
    set_checksum,
};
use super::notifications::EventName;
use super::objects::{
    LARGEST_PUT, ReadConditions, answered_version, coverage, headers_of, signed, source_of, tags_of,
};
use super::store::{
    Change, Headers, NewVersion, Outcome, PartSummary, Segment, Store, Tags, Version,
    WriteConditions, exact, from_ms, json_at, segments, versioning,
};

/// The least that S3 takes as a part other than the last.
const SMALLEST_PART: u64 = 5 << 20;
const MOST_PARTS: i32 = 10_000;

/// What an upload was created with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) algorithm: Algorithm,
    pub(super) coverage: Coverage,
    /// Whether the client chose the algorithm, which then binds its parts.
    pub(super) declared: bool,
    headers: Headers,
    tags: Tags,
}

/// How a finished upload was answered, for clients that ask again.
#[derive(Debug, Serialize, Deserialize)]
struct Completion {
    version_id: String,
    parts: Vec<(i32, String)>,
}

#[derive(Debug)]
struct StoredPart {
    number: i32,
    content: Option<String>,
    size: u64,
    etag: String,
    modified_ms: i64,
    checksum: Option<Checksum>,
}

impl StoredPart {
    const COLUMNS: &str = "number, content, size, etag, modified_ms, checksum";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let content: String = row.get(1)?;
        Ok(Self {
            number: row.get(0)?,
            content: (!content.is_empty()).then_some(content),
            size: row.get(2)?,
            etag: row.get(3)?,
            modified_ms: row.get(4)?,
            checksum: json_at(row, 5)?,
        })
    }
}

fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or \
         completed."
    )
}

fn open_upload(connection: &Connection, bucket: &str, key: &str, id: &str) -> Outcome<Plan> {
    versioning(connection, bucket)?;
    connection
        .prepare_cached("SELECT plan FROM uploads WHERE id = ?1 AND bucket = ?2 AND key = ?3 AND completion IS NULL")?
        .query_row(params![id, bucket, key.as_bytes()], |row| json_at(row, 0))
        .optional()?
        .ok_or_else(|| no_such_upload().into())
}

fn parts(
    connection: &Connection,
    upload: &str,
    after: i32,
    limit: i64,
) -> Outcome<Vec<StoredPart>> {
    let sql = format!(
        "SELECT {} FROM parts WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
        StoredPart::COLUMNS
    );
    let found = connection
        .prepare_cached(&sql)?
        .query_map(params![upload, after, limit], StoredPart::read)?
        .collect::<Result<_, _>>()?;
    Ok(found)
}

pub(super) async fn create(
    store: &Arc<Store>,
    request: S3Request<CreateMultipartUploadInput>,
) -> Outcome<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    let declared = input
        .checksum_algorithm
        .as_ref()
        .map(|algorithm| Algorithm::parse(algorithm.as_str()))
        .transpose()?;
    let requested = input.checksum_type.as_ref().map(ChecksumType::as_str);
    if declared.is_none() && requested.is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
        )
        .into());
    }
    let algorithm = declared.unwrap_or(Algorithm::Crc64Nvme);
    let plan = Plan {
        algorithm,
        coverage: Coverage::choose(algorithm, requested)?,
        declared: declared.is_some(),
        headers: headers_of!(input),
        tags: tags_of(input.tagging.as_deref())?,
    };
    let id = fresh_id();
    let output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        upload_id: Some(id.clone()),
        checksum_algorithm: plan
            .declared
            .then(|| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: plan
            .declared
            .then(|| ChecksumType::from_static(plan.coverage.name())),
        ..Default::default()
    };
    store
        .write(move |change| {
            versioning(&change.transaction, &input.bucket)?;
            change.transaction.execute(
                "INSERT INTO uploads (id, bucket, key, initiated_ms, plan) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![id, input.bucket, input.key.as_bytes(), change.now_ms, serde_json::to_string(&plan)?],
            )?;
            Ok(())
        })
        .await?;
    Ok(S3Response::new(output))
}

fn check_part_number(number: i32) -> S3Result<()> {
    if (1..=MOST_PARTS).contains(&number) {
        Ok(())
    } else {
        Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive"
        ))
    }
}

impl Plan {
    /// Refuses a part whose checksum is not the one the upload was created for.
    fn accept(&self, algorithm: Option<Algorithm>) -> S3Result<()> {
        let mismatch = match algorithm {
            Some(algorithm) => self.declared && algorithm != self.algorithm,
            // Without the client's own values a composite checksum would prove nothing.
            None => self.declared && self.coverage == Coverage::Composite,
        };
        if mismatch {
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                self.algorithm.name().to_lowercase(),
                algorithm.map_or("null".to_owned(), |algorithm| algorithm
                    .name()
                    .to_lowercase())
            ));
        }
        Ok(())
    }
}

/// Where a part belongs.
struct Place {
    bucket: String,
    key: String,
    upload: String,
    number: i32,
}

impl Place {
    /// Stores a part, in the place of an earlier one of the same number.
    fn put(
        &self,
        change: &mut Change<'_>,
        segments: &[Segment],
        size: u64,
        etag: &str,
        checksum: Option<&Checksum>,
    ) -> Outcome<()> {
        // Again, because the upload may have been completed or aborted while the part was on its way.
        open_upload(&change.transaction, &self.bucket, &self.key, &self.upload)?;
        let old: Option<String> = change
            .transaction
            .prepare_cached("SELECT content FROM parts WHERE upload = ?1 AND number = ?2")?
            .query_row(params![self.upload, self.number], |row| row.get(0))
            .optional()?;
        if let Some(old) = old {
            change.drop_content(Some(&old))?;
        }
        let content = change.add_content(segments)?.unwrap_or_default();
        change
            .transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO parts (upload, number, content, size, etag, modified_ms, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                self.upload,
                self.number,
                content,
                size,
                etag,
                change.now_ms,
                serde_json::to_string(&checksum)?
            ])?;
        Ok(())
    }
}

pub(super) async fn put_part(
    store: &Arc<Store>,
    mut request: S3Request<UploadPartInput>,
) -> Outcome<S3Response<UploadPartOutput>> {
    let body = request.input.body.take();
    let claims = claimed_checksums!(request.input);
    let announced = Announced::read(
        &request,
        request.input.content_length,
        request.input.content_md5.clone(),
        claims,
    )?;
    let input = request.input;
    check_part_number(input.part_number)?;
    if input
        .content_length
        .is_some_and(|length| length > signed(LARGEST_PUT))
    {
        return Err(s3_error!(
            EntityTooLarge,
            "Your proposed upload exceeds the maximum allowed size"
        )
        .into());
    }
    let place = Place {
        bucket: input.bucket,
        key: input.key,
        upload: input.upload_id,
        number: input.part_number,
    };
    let (bucket, key, upload) = (
        place.bucket.clone(),
        place.key.clone(),
        place.upload.clone(),
    );
    let plan = store
        .read(move |connection| open_upload(connection, &bucket, &key, &upload))
        .await?;
    let own = announced.algorithm();
    plan.accept(own)?;
    let received = bodies::receive(store, body, announced, Some(plan.algorithm)).await?;
    let etag = received.digests.etag();
    let answered = received.digests.checksum(own.unwrap_or(plan.algorithm));
    let checksum = received.digests.checksum(plan.algorithm);
    let mut output = UploadPartOutput {
        e_tag: Some(ETag::Strong(etag.clone())),
        ..Default::default()
    };
    set_checksum!(output, &answered);
    store
        .write(move |change| {
            place.put(
                change,
                &received.segments(),
                received.size,
                &etag,
                checksum.as_ref(),
            )?;
            received.keep(change);
            Ok(())
        })
        .await?;
    Ok(S3Response::new(output))
}

pub(super) async fn copy_part(
    store: &Arc<Store>,
    request: S3Request<UploadPartCopyInput>,
) -> Outcome<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    check_part_number(input.part_number)?;
    let place = Place {
        bucket: input.bucket,
        key: input.key,
        upload: input.upload_id,
        number: input.part_number,
    };
    let (bucket, key, upload) = (
        place.bucket.clone(),
        place.key.clone(),
        place.upload.clone(),
    );
    let plan = store
        .read(move |connection| open_upload(connection, &bucket, &key, &upload))
        .await?;
    let (source_bucket, source_key, source_version) = source_of(&input.copy_source)?;
    let (source, all, pin) = store
        .open_content(source_bucket, source_key, source_version)
        .await?;
    let pin = Arc::new(pin);
    ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    }
    .hold(&source)?;
    let range = match input.copy_source_range.as_deref() {
        None => 0..source.size,
        Some(range) => source_range(range, source.size)?,
    };
    let size = range.end - range.start;
    if size > LARGEST_PUT {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size"
        )
        .into());
    }
    let segments = bodies::cut(&all, &range);
    let digests = bodies::hash(store, segments.clone(), &pin, vec![plan.algorithm]).await?;
    let checksum = digests.checksum(plan.algorithm);
    let etag = digests.etag();
    let modified = store
        .write(move |change| {
            place.put(change, &segments, size, &etag, checksum.as_ref())?;
            Ok((change.now_ms, pin))
        })
        .await
        .map(|(modified, _pin)| modified)?;
    let mut result = CopyPartResult {
        e_tag: Some(ETag::Strong(digests.etag())),
        last_modified: Some(from_ms(modified).into()),
        ..Default::default()
    };
    set_checksum!(result, &digests.checksum(plan.algorithm));
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: answered_version(&source),
        ..Default::default()
    }))
}

/// Reads `bytes=first-last`, the only form a copy source may have, entirely inside the source.
fn source_range(range: &str, size: u64) -> S3Result<std::ops::Range<u64>> {
    match Range::parse(range) {
        Ok(Range::Int {
            first,
            last: Some(last),
        }) => {
            if first <= last && last < size {
                Ok(first..last + 1)
            } else {
                Err(s3_error!(
                    InvalidRange,
                    "The requested range is not valid for the source of size: {size}"
                ))
            }
        }
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy"
        )),
    }
}

pub(super) async fn list_parts(
    store: &Arc<Store>,
    request: S3Request<ListPartsInput>,
) -> Outcome<S3Response<ListPartsOutput>> {
    let input = request.input;
    let marker = input.part_number_marker.unwrap_or(0);
    let max_parts = input.max_parts.unwrap_or(1000).clamp(0, 1000);
    let (bucket, key, upload) = (
        input.bucket.clone(),
        input.key.clone(),
        input.upload_id.clone(),
    );
    let (plan, mut found) = store
        .read(move |connection| {
            let plan = open_upload(connection, &bucket, &key, &upload)?;
            Ok((
                plan,
                parts(connection, &upload, marker, i64::from(max_parts) + 1)?,
            ))
        })
        .await?;
    let limit = usize::try_from(max_parts).unwrap_or(0);
    let truncated = found.len() > limit;
    found.truncate(limit);
    let next = found.last().map(|part| part.number);
    let listed = found
        .into_iter()
        .map(|part| {
            let mut output = Part {
                e_tag: Some(ETag::Strong(part.etag)),
                last_modified: Some(from_ms(part.modified_ms).into()),
                part_number: Some(part.number),
                size: Some(signed(part.size)),
                ..Default::default()
            };
            set_checksum!(output, &part.checksum);
            output
        })
        .collect();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_algorithm: Some(ChecksumAlgorithm::from_static(plan.algorithm.name())),
        checksum_type: Some(ChecksumType::from_static(plan.coverage.name())),
        is_truncated: Some(truncated),
        max_parts: Some(max_parts),
        part_number_marker: Some(marker),
        next_part_number_marker: next,
        parts: Some(listed),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

pub(super) async fn abort(
    store: &Arc<Store>,
    request: S3Request<AbortMultipartUploadInput>,
) -> Outcome<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    store
        .write(move |change| {
            open_upload(
                &change.transaction,
                &input.bucket,
                &input.key,
                &input.upload_id,
            )?;
            forget_parts(change, &input.upload_id)?;
            change
                .transaction
                .execute("DELETE FROM uploads WHERE id = ?1", [&input.upload_id])?;
            Ok(())
        })
        .await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

/// Ends the uploads that began before a time and were not completed, as a lifecycle rule does; answers how many.
pub(super) async fn abort_begun_before(store: &Arc<Store>, time_ms: i64) -> Outcome<usize> {
    store
        .write(move |change| {
            let ids: Vec<String> = change
                .transaction
                .prepare("SELECT id FROM uploads WHERE completion IS NULL AND initiated_ms < ?1")?
                .query_map([time_ms], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for id in &ids {
                forget_parts(change, id)?;
                change
                    .transaction
                    .execute("DELETE FROM uploads WHERE id = ?1", [id])?;
            }
            Ok(ids.len())
        })
        .await
}

fn forget_parts(change: &mut Change<'_>, upload: &str) -> Outcome<()> {
    for part in parts(&change.transaction, upload, 0, i64::from(MOST_PARTS))? {
        change.drop_content(part.content.as_deref())?;
    }
    change
        .transaction
        .execute("DELETE FROM parts WHERE upload = ?1", [upload])?;
    Ok(())
}

pub(super) async fn complete(
    store: &Arc<Store>,
    request: S3Request<CompleteMultipartUploadInput>,
) -> Outcome<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let version = store
        .write(move |change| complete_here(change, &input))
        .await?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(bucket),
        key: Some(key),
        e_tag: Some(ETag::Strong(version.etag.clone())),
        version_id: answered_version(&version),
        checksum_type: coverage(version.checksum.as_ref()),
        ..Default::default()
    };
    set_checksum!(output, &version.checksum);
    Ok(S3Response::new(output))
}

fn complete_here(
    change: &mut Change<'_>,
    input: &CompleteMultipartUploadInput,
) -> Outcome<Version> {
    let requested: &[CompletedPart] = input
        .multipart_upload
        .as_ref()
        .and_then(|upload| upload.parts.as_deref())
        .unwrap_or_default();
    if requested.is_empty() || requested.len() > usize::try_from(MOST_PARTS).unwrap_or(0) {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
        .into());
    }
    let named: Vec<(i32, String)> = requested
        .iter()
        .map(|part| {
            let etag = part.e_tag.as_ref().map(|etag| etag.value().to_owned());
            (part.part_number.unwrap_or(0), etag.unwrap_or_default())
        })
        .collect();
    if let Some(version) = answered_before(change, input, &named)? {
        return Ok(version);
    }
    let plan = open_upload(
        &change.transaction,
        &input.bucket,
        &input.key,
        &input.upload_id,
    )?;
    if named.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        )
        .into());
    }
    let chosen = choose(change, &input.upload_id, &plan, requested, &named)?;
    let size = chosen.iter().map(|part| part.size).sum();
    if input
        .mpu_object_size
        .is_some_and(|expected| expected != signed(size))
    {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' header does not match what was computed."
        )
        .into());
    }
    let values: Vec<(String, u64)> = chosen
        .iter()
        .filter_map(|part| {
            part.checksum
                .as_ref()
                .map(|checksum| (checksum.value.clone(), part.size))
        })
        .collect();
    let checksum = combine(plan.algorithm, plan.coverage, &values);
    verify_whole(input, &plan, checksum.as_ref())?;
    let conditions = WriteConditions {
        if_match: input.if_match.clone(),
        if_none_match: input.if_none_match.clone(),
    };
    change.check(&input.bucket, &input.key, &conditions)?;
    let mut content = Vec::new();
    for part in &chosen {
        content.extend(segments(&change.transaction, part.content.as_deref())?);
    }
    let new = NewVersion {
        key: input.key.clone(),
        content,
        size,
        etag: multipart_etag(chosen.iter().map(|part| part.etag.as_str())),
        checksum,
        headers: plan.headers,
        tags: plan.tags,
        parts: chosen
            .into_iter()
            .map(|part| PartSummary {
                number: part.number,
                size: part.size,
                checksum: part.checksum,
            })
            .collect(),
    };
    let version = change.add_version(&input.bucket, &new, EventName::CompleteMultipartUpload)?;
    // After the object refers to the blobs, so that only those of unused parts go.
    forget_parts(change, &input.upload_id)?;
    let completion = Completion {
        version_id: version.version_id.clone(),
        parts: named,
    };
    change.transaction.execute(
        "UPDATE uploads SET completion = ?2 WHERE id = ?1",
        params![input.upload_id, serde_json::to_string(&completion)?],
    )?;
    Ok(version)
}

/// Finds the object that the same request made before: a client that lost the answer asks again.
fn answered_before(
    change: &Change<'_>,
    input: &CompleteMultipartUploadInput,
    named: &[(i32, String)],
) -> Outcome<Option<Version>> {
    let completion: Option<Completion> = change
        .transaction
        .prepare_cached("SELECT completion FROM uploads WHERE id = ?1 AND bucket = ?2 AND key = ?3 AND completion NOTNULL")?
        .query_row(params![input.upload_id, input.bucket, input.key.as_bytes()], |row| json_at(row, 0))
        .optional()?;
    let Some(completion) = completion.filter(|completion| completion.parts == named) else {
        return Ok(None);
    };
    let version = exact(
        &change.transaction,
        &input.bucket,
        &input.key,
        &completion.version_id,
    )?;
    // An unversioned key may have been written again since.
    let etag = multipart_etag(named.iter().map(|(_, etag)| etag.as_str()));
    Ok(version.filter(|version| version.etag == etag))
}

/// Holds the client's list of parts against what was uploaded.
fn choose(
    change: &Change<'_>,
    upload: &str,
    plan: &Plan,
    requested: &[CompletedPart],
    named: &[(i32, String)],
) -> Outcome<Vec<StoredPart>> {
    let mut uploaded = parts(&change.transaction, upload, 0, i64::from(MOST_PARTS))?.into_iter();
    let mut chosen = Vec::with_capacity(named.len());
    for (part, (number, etag)) in requested.iter().zip(named) {
        let invalid = || {
            s3_error!(
                InvalidPart,
                "One or more of the specified parts could not be found. The part may not have been uploaded, or the \
                 specified entity tag may not match the part's entity tag."
            )
        };
        let stored = uploaded
            .find(|stored| stored.number >= *number)
            .filter(|stored| stored.number == *number && stored.etag == *etag)
            .ok_or_else(invalid)?;
        let claims = claimed_checksums!(part);
        if plan.declared && plan.coverage == Coverage::Composite && claims.is_empty() {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {} checksum. The complete request must include the checksum for each \
                 part. It was missing for part {number} in the request.",
                plan.algorithm.name().to_lowercase()
            )
            .into());
        }
        let known = stored.checksum.as_ref();
        let wrong = claims.iter().any(|(algorithm, value)| {
            known.is_some_and(|known| known.algorithm == *algorithm && known.value != *value)
                || (plan.declared && *algorithm != plan.algorithm)
        });
        if wrong {
            return Err(invalid().into());
        }
        chosen.push(stored);
    }
    let small = chosen
        .split_last()
        .is_some_and(|(_, others)| others.iter().any(|part| part.size < SMALLEST_PART));
    if small {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        )
        .into());
    }
    Ok(chosen)
}

/// Holds the checksum of the whole against the one in the request.
fn verify_whole(
    input: &CompleteMultipartUploadInput,
    plan: &Plan,
    checksum: Option<&Checksum>,
) -> S3Result<()> {
    if let Some(requested) = &input.checksum_type
        && requested.as_str() != plan.coverage.name()
    {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            plan.coverage.name()
        ));
    }
    for (algorithm, claim) in claimed_checksums!(input) {
        let right = checksum.is_some_and(|checksum| {
            // The number of parts is optional in a claim.
            let bare = checksum.value.split('-').next();
            checksum.algorithm == algorithm
                && (checksum.value == claim || bare == Some(claim.as_str()))
        });
        if !right {
            return Err(bad_digest(algorithm));
        }
    }
    Ok(())
}
