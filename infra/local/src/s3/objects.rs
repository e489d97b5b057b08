//! Single objects: put, get, head, copy, delete, attributes and tags.

use std::ops::Range as Bytes;
use std::sync::Arc;

use s3s::dto::{
    ChecksumMode, ChecksumType, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectTaggingInput, DeleteObjectTaggingOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition,
    GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts, GetObjectInput,
    GetObjectOutput, GetObjectTaggingInput, GetObjectTaggingOutput, HeadObjectInput,
    HeadObjectOutput, ObjectPart, PutObjectInput, PutObjectOutput, PutObjectTaggingInput,
    PutObjectTaggingOutput, StorageClass, Tag, Timestamp,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use time::OffsetDateTime;

use super::bodies::{self, Announced};
use super::checksums::{Algorithm, Checksum, claimed_checksums, set_checksum};
use super::notifications::EventName;
use super::store::{
    Headers, NULL_VERSION, NewVersion, Outcome, Refusal, Store, Tags, Version, WriteConditions,
    from_ms, precondition_failed, readable, versioning,
};

/// The largest single upload that S3 accepts.
pub(super) const LARGEST_PUT: u64 = 5 << 30;

pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The version id as answered: absent where no versions are kept.
pub(super) fn answered_version(version: &Version) -> Option<String> {
    (version.version_id != NULL_VERSION).then(|| version.version_id.clone())
}

pub(super) fn coverage(checksum: Option<&Checksum>) -> Option<ChecksumType> {
    checksum.map(|checksum| ChecksumType::from_static(checksum.coverage.name()))
}

/// Collects the stored headers of an s3s input; `PutObject`, `CopyObject` and `CreateMultipartUpload` share the fields.
macro_rules! headers_of {
    ($input:expr) => {
        $crate::s3::store::Headers {
            content_type: $input.content_type.clone(),
            content_encoding: $crate::s3::objects::stored_encoding(
                $input.content_encoding.as_deref(),
            ),
            content_language: $input.content_language.clone(),
            content_disposition: $input.content_disposition.clone(),
            cache_control: $input.cache_control.clone(),
            expires_ms: $input
                .expires
                .clone()
                .map(|expires| $crate::s3::store::to_ms(expires.into())),
            website_redirect_location: $input.website_redirect_location.clone(),
            metadata: $input
                .metadata
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
        }
    };
}
pub(super) use headers_of;

/// Removes the transfer's own `aws-chunked`, which is no property of the object.
pub(super) fn stored_encoding(encoding: Option<&str>) -> Option<String> {
    let kept: Vec<&str> = encoding?
        .split(',')
        .map(str::trim)
        .filter(|encoding| !encoding.eq_ignore_ascii_case("aws-chunked") && !encoding.is_empty())
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Reads the form-encoded tags of the `x-amz-tagging` header.
pub(super) fn tags_of(header: Option<&str>) -> S3Result<Tags> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| s3_error!(InvalidTag, "The tag is not UTF-8"))
    };
    let tags = header
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect::<S3Result<Tags>>()?;
    checked_tags(tags)
}

fn checked_tags(tags: Tags) -> S3Result<Tags> {
    if tags.len() > 10 {
        return Err(s3_error!(
            InvalidTag,
            "Object tags cannot be greater than 10"
        ));
    }
    for (index, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(s3_error!(
                InvalidTag,
                "The TagKey you have provided is invalid"
            ));
        }
        if value.chars().count() > 256 {
            return Err(s3_error!(
                InvalidTag,
                "The TagValue you have provided is invalid"
            ));
        }
        if tags[..index].iter().any(|(other, _)| other == key) {
            return Err(s3_error!(
                InvalidTag,
                "Cannot provide multiple Tags with the same key"
            ));
        }
    }
    Ok(tags)
}

pub(super) async fn put(
    store: &Arc<Store>,
    mut request: S3Request<PutObjectInput>,
) -> Outcome<S3Response<PutObjectOutput>> {
    let body = request.input.body.take();
    let claims = claimed_checksums!(request.input);
    let announced = Announced::read(
        &request,
        request.input.content_length,
        request.input.content_md5.clone(),
        claims,
    )?;
    let input = request.input;
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
    let tags = tags_of(input.tagging.as_deref())?;
    let bucket = input.bucket.clone();
    store
        .read(move |connection| versioning(connection, &bucket))
        .await?;
    let declared = input
        .checksum_algorithm
        .as_ref()
        .map(|algorithm| Algorithm::parse(algorithm.as_str()))
        .transpose()?;
    // S3 computes a CRC-64/NVME itself where the client brings nothing.
    let algorithm = announced
        .algorithm()
        .or(declared)
        .unwrap_or(Algorithm::Crc64Nvme);
    let received = bodies::receive(store, body, announced, Some(algorithm)).await?;
    let conditions = WriteConditions {
        if_match: input.if_match.clone(),
        if_none_match: input.if_none_match.clone(),
    };
    let version = store
        .write(move |change| {
            change.check(&input.bucket, &input.key, &conditions)?;
            let new = NewVersion {
                content: received.segments(),
                size: received.size,
                etag: received.digests.etag(),
                checksum: received.digests.checksum(algorithm),
                headers: headers_of!(input),
                tags,
                parts: Vec::new(),
                key: input.key,
            };
            let version = change.add_version(&input.bucket, &new, EventName::Put)?;
            received.keep(change);
            Ok(version)
        })
        .await?;
    let mut output = PutObjectOutput {
        e_tag: Some(ETag::Strong(version.etag.clone())),
        version_id: answered_version(&version),
        checksum_type: coverage(version.checksum.as_ref()),
        ..Default::default()
    };
    set_checksum!(output, &version.checksum);
    Ok(S3Response::new(output))
}

/// The conditions that reads and copy sources share.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "the names of the headers")]
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// Answers whether the version is what the client already has; fails if it is not what it expects.
    fn unchanged(self, version: &Version) -> S3Result<bool> {
        let is = |condition: &ETagCondition| {
            condition
                .as_etag()
                .is_none_or(|etag| etag.value() == version.etag)
        };
        // HTTP dates have no fractions, so a time that was answered must count as the same moment.
        let modified = version.modified_ms / 1000;
        let seconds = |time: &Timestamp| OffsetDateTime::from(time.clone()).unix_timestamp();
        match (&self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !is(condition) => return Err(precondition_failed()),
            (None, Some(time)) if modified > seconds(&time) => return Err(precondition_failed()),
            _ => {}
        }
        Ok(match (&self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => is(condition),
            (None, Some(time)) => modified <= seconds(&time),
            (None, None) => false,
        })
    }

    /// As for a copy, where what is unchanged fails too.
    pub(super) fn hold(self, version: &Version) -> S3Result<()> {
        if self.unchanged(version)? {
            Err(precondition_failed())
        } else {
            Ok(())
        }
    }
}

fn not_modified(version: &Version) -> S3Error {
    let mut error = s3_error!(NotModified, "Not Modified");
    error.set_status_code(http::StatusCode::NOT_MODIFIED);
    let mut headers = http::HeaderMap::new();
    if let Ok(etag) = ETag::Strong(version.etag.clone()).to_http_header() {
        headers.insert("etag", etag);
    }
    error.set_headers(headers);
    error
}

/// What part of an object a reader asked for.
#[derive(Debug)]
struct Selection {
    bytes: Bytes<u64>,
    /// Set if only a part is answered, which makes the status 206.
    content_range: Option<String>,
    parts_count: Option<i32>,
    /// The checksum of what is answered, if one is known.
    checksum: Option<Checksum>,
}

fn select(
    version: &Version,
    range: Option<s3s::dto::Range>,
    part_number: Option<i32>,
) -> S3Result<Selection> {
    let whole = 0..version.size;
    let content_range = |bytes: &Bytes<u64>| {
        Some(format!(
            "bytes {}-{}/{}",
            bytes.start,
            bytes.end.saturating_sub(1),
            version.size
        ))
    };
    match (range, part_number) {
        (Some(_), Some(_)) => Err(s3_error!(
            InvalidRequest,
            "Cannot specify both Range header and partNumber query parameter"
        )),
        (Some(range), None) => {
            let bytes = range
                .check(version.size)
                .map_err(|_| s3_error!(InvalidRange, "The requested range is not satisfiable"))?;
            Ok(Selection {
                content_range: content_range(&bytes),
                bytes,
                parts_count: None,
                checksum: None,
            })
        }
        (None, Some(number)) if version.parts.is_empty() => {
            if number != 1 {
                return Err(invalid_part_number());
            }
            Ok(Selection {
                content_range: (version.size > 0).then(|| content_range(&whole)).flatten(),
                bytes: whole,
                parts_count: None,
                checksum: version.checksum.clone(),
            })
        }
        (None, Some(number)) => {
            let mut start = 0;
            for part in &version.parts {
                if part.number == number {
                    let bytes = start..start + part.size;
                    return Ok(Selection {
                        content_range: content_range(&bytes),
                        bytes,
                        parts_count: i32::try_from(version.parts.len()).ok(),
                        checksum: part.checksum.clone(),
                    });
                }
                start += part.size;
            }
            Err(invalid_part_number())
        }
        (None, None) => Ok(Selection {
            bytes: whole,
            content_range: None,
            parts_count: None,
            checksum: version.checksum.clone(),
        }),
    }
}

fn invalid_part_number() -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom("InvalidPartNumber".into()),
        "The requested partnumber is not satisfiable",
    );
    error.set_status_code(http::StatusCode::RANGE_NOT_SATISFIABLE);
    error
}

/// Fills what `GetObject` and `HeadObject` answer alike.
macro_rules! describe {
    ($output:expr, $version:expr, $selection:expr, $mode:expr) => {{
        let (output, version, selection) = (&mut $output, &$version, &$selection);
        let headers: &Headers = &version.headers;
        output.accept_ranges = Some("bytes".to_owned());
        output.cache_control = headers.cache_control.clone();
        output.content_disposition = headers.content_disposition.clone();
        output.content_encoding = headers.content_encoding.clone();
        output.content_language = headers.content_language.clone();
        output.content_length = Some(signed(selection.bytes.end - selection.bytes.start));
        output.content_range = selection.content_range.clone();
        output.content_type = Some(
            headers
                .content_type
                .clone()
                .unwrap_or_else(|| "binary/octet-stream".to_owned()),
        );
        output.e_tag = Some(ETag::Strong(version.etag.clone()));
        output.expires = headers.expires_ms.map(|ms| from_ms(ms).into());
        output.last_modified = Some(version.modified());
        output.metadata = Some(headers.metadata.clone().into_iter().collect());
        output.parts_count = selection.parts_count;
        output.version_id = answered_version(version);
        output.website_redirect_location = headers.website_redirect_location.clone();
        if $mode.is_some_and(|mode: ChecksumMode| mode.as_str() == ChecksumMode::ENABLED) {
            output.checksum_type = coverage(selection.checksum.as_ref());
            set_checksum!(output, &selection.checksum);
        }
    }};
}

fn status_of(selection: &Selection) -> Option<http::StatusCode> {
    selection
        .content_range
        .as_ref()
        .map(|_| http::StatusCode::PARTIAL_CONTENT)
}

pub(super) async fn get(
    store: &Arc<Store>,
    request: S3Request<GetObjectInput>,
) -> Outcome<S3Response<GetObjectOutput>> {
    let input = request.input;
    let (version, segments, pin) = store
        .open_content(input.bucket, input.key, input.version_id)
        .await?;
    let conditions = ReadConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    if conditions.unchanged(&version)? {
        return Err(not_modified(&version).into());
    }
    let selection = select(&version, input.range, input.part_number)?;
    let mut output = GetObjectOutput::default();
    describe!(output, version, selection, input.checksum_mode);
    if !version.tags.is_empty() {
        output.tag_count = i32::try_from(version.tags.len()).ok();
    }
    output.body = Some(bodies::send(
        store,
        bodies::cut(&segments, &selection.bytes),
        pin,
    ));
    let mut response = S3Response::new(output);
    response.status = status_of(&selection);
    Ok(response)
}

pub(super) async fn head(
    store: &Arc<Store>,
    request: S3Request<HeadObjectInput>,
) -> Outcome<S3Response<HeadObjectOutput>> {
    let input = request.input;
    let (bucket, key, version_id) = (input.bucket, input.key, input.version_id);
    let version = store
        .read(move |connection| readable(connection, &bucket, &key, version_id.as_deref()))
        .await?;
    let conditions = ReadConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    if conditions.unchanged(&version)? {
        return Err(not_modified(&version).into());
    }
    let selection = select(&version, input.range, input.part_number)?;
    let mut output = HeadObjectOutput::default();
    describe!(output, version, selection, input.checksum_mode);
    let mut response = S3Response::new(output);
    response.status = status_of(&selection);
    for (name, value) in [
        ("content-type", input.response_content_type),
        ("content-disposition", input.response_content_disposition),
        ("cache-control", input.response_cache_control),
        ("content-encoding", input.response_content_encoding),
        ("content-language", input.response_content_language),
    ] {
        if let Some(value) = value.and_then(|value| http::HeaderValue::from_str(&value).ok()) {
            response.headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Takes a copy source apart; this server has neither access points nor outposts.
pub(super) fn source_of(source: &CopySource) -> S3Result<(String, String, Option<String>)> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => Ok((
            bucket.to_string(),
            key.to_string(),
            version_id.as_ref().map(ToString::to_string),
        )),
        _ => Err(s3_error!(
            InvalidArgument,
            "Only buckets can be copied from"
        )),
    }
}

pub(super) async fn copy(
    store: &Arc<Store>,
    request: S3Request<CopyObjectInput>,
) -> Outcome<S3Response<CopyObjectOutput>> {
    let if_match = header_condition(&request, "if-match")?;
    let if_none_match = header_condition(&request, "if-none-match")?;
    let input = request.input;
    let (source_bucket, source_key, source_version) = source_of(&input.copy_source)?;
    let onto_itself =
        source_bucket == input.bucket && source_key == input.key && source_version.is_none();
    let (source, segments, pin) = store
        .open_content(source_bucket, source_key, source_version)
        .await?;
    let pin = Arc::new(pin);
    ReadConditions {
        if_match: input.copy_source_if_match.clone(),
        if_none_match: input.copy_source_if_none_match.clone(),
        if_modified_since: input.copy_source_if_modified_since.clone(),
        if_unmodified_since: input.copy_source_if_unmodified_since.clone(),
    }
    .hold(&source)?;
    if source.size > LARGEST_PUT {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
        )
        .into());
    }
    let replaces = input
        .metadata_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == "REPLACE");
    if onto_itself
        && !replaces
        && input.storage_class.is_none()
        && input.website_redirect_location.is_none()
    {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes."
        )
        .into());
    }
    let headers = if replaces {
        headers_of!(input)
    } else {
        source.headers.clone()
    };
    let tags = if input
        .tagging_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == "REPLACE")
    {
        tags_of(input.tagging.as_deref())?
    } else {
        source.tags.clone()
    };
    let algorithm = match &input.checksum_algorithm {
        Some(algorithm) => Algorithm::parse(algorithm.as_str())?,
        None => source
            .checksum
            .as_ref()
            .map_or(Algorithm::Crc64Nvme, |checksum| checksum.algorithm),
    };
    // The bytes are shared; they are read again only where the copy's tag or checksum is not known yet.
    let known = source.parts.is_empty()
        && source
            .checksum
            .as_ref()
            .is_some_and(|known| known.algorithm == algorithm);
    let (etag, checksum) = if known {
        (source.etag.clone(), source.checksum.clone())
    } else {
        let digests = bodies::hash(store, segments.clone(), &pin, vec![algorithm]).await?;
        (digests.etag(), digests.checksum(algorithm))
    };
    let source_version_id = answered_version(&source);
    let version = store
        .write(move |change| {
            change.check(
                &input.bucket,
                &input.key,
                &WriteConditions {
                    if_match,
                    if_none_match,
                },
            )?;
            let new = NewVersion {
                key: input.key,
                content: segments,
                size: source.size,
                etag,
                checksum,
                headers,
                tags,
                parts: Vec::new(),
            };
            let version = change.add_version(&input.bucket, &new, EventName::Copy)?;
            Ok((version, pin))
        })
        .await
        .map(|(version, _pin)| version)?;
    let mut result = CopyObjectResult {
        e_tag: Some(ETag::Strong(version.etag.clone())),
        last_modified: Some(version.modified()),
        checksum_type: coverage(version.checksum.as_ref()),
        ..Default::default()
    };
    set_checksum!(result, &version.checksum);
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: source_version_id,
        version_id: answered_version(&version),
        ..Default::default()
    }))
}

/// Reads a condition that the protocol layer's input does not carry.
fn header_condition<T>(request: &S3Request<T>, name: &str) -> S3Result<Option<ETagCondition>> {
    request
        .headers
        .get(name)
        .map(|value| {
            ETagCondition::parse_http_header(value.as_bytes())
                .map_err(|_| s3_error!(InvalidArgument, "The {name} header is not an entity tag"))
        })
        .transpose()
}

pub(super) async fn delete(
    store: &Arc<Store>,
    request: S3Request<DeleteObjectInput>,
) -> Outcome<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    let deleted = store
        .write(move |change| {
            if input.if_match.is_some() {
                let conditions = WriteConditions {
                    if_match: input.if_match,
                    if_none_match: None,
                };
                change.check(&input.bucket, &input.key, &conditions)?;
            }
            change.delete(&input.bucket, &input.key, input.version_id.as_deref())
        })
        .await?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.marker.then_some(true),
        version_id: deleted.version_id,
        ..Default::default()
    }))
}

pub(super) async fn delete_many(
    store: &Arc<Store>,
    request: S3Request<DeleteObjectsInput>,
) -> Outcome<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
        .into());
    }
    let quiet = input.delete.quiet == Some(true);
    let output = store
        .write(move |change| {
            let mut deleted = Vec::new();
            let mut errors = Vec::new();
            for object in input.delete.objects {
                let conditions = WriteConditions {
                    if_match: object.e_tag.map(ETagCondition::ETag),
                    if_none_match: None,
                };
                let outcome = change
                    .check(&input.bucket, &object.key, &conditions)
                    .and_then(|()| {
                        change.delete(&input.bucket, &object.key, object.version_id.as_deref())
                    });
                match outcome {
                    Ok(_) if quiet => {}
                    Ok(gone) => deleted.push(DeletedObject {
                        delete_marker: gone.marker.then_some(true),
                        delete_marker_version_id: gone
                            .marker
                            .then(|| gone.version_id.clone())
                            .flatten(),
                        key: Some(object.key),
                        version_id: object.version_id,
                    }),
                    Err(Refusal::Answer(error))
                        if *error.code() != s3s::S3ErrorCode::NoSuchBucket =>
                    {
                        errors.push(s3s::dto::Error {
                            code: Some(error.code().as_str().to_owned()),
                            message: error.message().map(ToOwned::to_owned),
                            key: Some(object.key),
                            version_id: object.version_id,
                        });
                    }
                    Err(other) => return Err(other),
                }
            }
            Ok(DeleteObjectsOutput {
                deleted: Some(deleted),
                errors: Some(errors),
                ..Default::default()
            })
        })
        .await?;
    Ok(S3Response::new(output))
}

pub(super) async fn attributes(
    store: &Arc<Store>,
    request: S3Request<GetObjectAttributesInput>,
) -> Outcome<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    let version = store
        .read(move |connection| {
            readable(
                connection,
                &input.bucket,
                &input.key,
                input.version_id.as_deref(),
            )
        })
        .await?;
    // Depending on the client the names come as several headers or as one list.
    let wants = |name: &str| {
        input
            .object_attributes
            .iter()
            .flat_map(|attribute| attribute.as_str().split(','))
            .any(|attribute| attribute.trim() == name)
    };
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(version.modified()),
        version_id: answered_version(&version),
        ..Default::default()
    };
    if wants("ETag") {
        output.e_tag = Some(ETag::Strong(version.etag.clone()));
    }
    if wants("ObjectSize") {
        output.object_size = Some(signed(version.size));
    }
    if wants("StorageClass") {
        output.storage_class = Some(StorageClass::from_static(StorageClass::STANDARD));
    }
    if wants("Checksum") && version.checksum.is_some() {
        let mut checksum = s3s::dto::Checksum {
            checksum_type: coverage(version.checksum.as_ref()),
            ..Default::default()
        };
        set_checksum!(checksum, &version.checksum);
        output.checksum = Some(checksum);
    }
    if wants("ObjectParts") && !version.parts.is_empty() {
        output.object_parts = Some(parts_of(
            &version,
            input.part_number_marker,
            input.max_parts,
        ));
    }
    Ok(S3Response::new(output))
}

fn parts_of(
    version: &Version,
    marker: Option<i32>,
    max_parts: Option<i32>,
) -> GetObjectAttributesParts {
    let max_parts = max_parts.unwrap_or(1000).clamp(0, 1000);
    let mut left = version
        .parts
        .iter()
        .filter(|part| part.number > marker.unwrap_or(0));
    let page: Vec<_> = left
        .by_ref()
        .take(usize::try_from(max_parts).unwrap_or(0))
        .collect();
    let parts = page
        .iter()
        .map(|part| {
            let mut output = ObjectPart {
                part_number: Some(part.number),
                size: Some(signed(part.size)),
                ..Default::default()
            };
            set_checksum!(output, &part.checksum);
            output
        })
        .collect();
    GetObjectAttributesParts {
        is_truncated: Some(left.next().is_some()),
        max_parts: Some(max_parts),
        next_part_number_marker: page.last().map(|part| part.number),
        part_number_marker: Some(marker.unwrap_or(0)),
        parts: Some(parts),
        total_parts_count: i32::try_from(version.parts.len()).ok(),
    }
}

pub(super) async fn get_tags(
    store: &Arc<Store>,
    request: S3Request<GetObjectTaggingInput>,
) -> Outcome<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    let version = store
        .read(move |connection| {
            readable(
                connection,
                &input.bucket,
                &input.key,
                input.version_id.as_deref(),
            )
        })
        .await?;
    Ok(S3Response::new(GetObjectTaggingOutput {
        version_id: answered_version(&version),
        tag_set: version
            .tags
            .into_iter()
            .map(|(key, value)| Tag {
                key: Some(key),
                value: Some(value),
            })
            .collect(),
    }))
}

async fn set_tags(
    store: &Arc<Store>,
    bucket: String,
    key: String,
    version_id: Option<String>,
    tags: Tags,
) -> Outcome<Option<String>> {
    let tags = checked_tags(tags)?;
    store
        .write(move |change| {
            let version = readable(&change.transaction, &bucket, &key, version_id.as_deref())?;
            change
                .transaction
                .prepare_cached("UPDATE objects SET tags = ?2 WHERE seq = ?1")?
                .execute(rusqlite::params![
                    version.seq,
                    serde_json::to_string(&tags)?
                ])?;
            Ok(answered_version(&version))
        })
        .await
}

pub(super) async fn put_tags(
    store: &Arc<Store>,
    request: S3Request<PutObjectTaggingInput>,
) -> Outcome<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let tags = input
        .tagging
        .tag_set
        .into_iter()
        .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()))
        .collect();
    let version_id = set_tags(store, input.bucket, input.key, input.version_id, tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) async fn delete_tags(
    store: &Arc<Store>,
    request: S3Request<DeleteObjectTaggingInput>,
) -> Outcome<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    let version_id = set_tags(
        store,
        input.bucket,
        input.key,
        input.version_id,
        Tags::new(),
    )
    .await?;
    Ok(S3Response::with_status(
        DeleteObjectTaggingOutput { version_id },
        http::StatusCode::NO_CONTENT,
    ))
}
