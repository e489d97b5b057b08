//! The verbs of the bucket.

use crate::aws::{Clients, Lazy};
use crate::config::Config;
use crate::domain::{Digest, Timestamp};
use crate::error::{Error, ErrorCode, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload,
    CompletedPart as SdkPart, ObjectIdentifier, ObjectLockMode,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// The registry's bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) client: Lazy<Client>,
    pub(super) name: String,
    presign_seconds: u64,
}

/// A request that somebody without credentials may make until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresignedRequest {
    /// HTTP method.
    pub method: &'static str,
    /// The URL; a secret while it lives.
    pub url: String,
    /// Headers that must be sent exactly so.
    pub headers: BTreeMap<String, String>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its `ETag`.
    pub etag: String,
    /// When it was written.
    pub modified_at: Timestamp,
}

/// What S3 knows of an object without giving its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its `ETag`.
    pub etag: String,
    /// Its version id, in a versioned bucket.
    pub object_version: Option<String>,
    /// SHA-256 of the whole object, if S3 verified one.
    pub digest: Option<Digest>,
}

/// A part of a multipart upload that S3 has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// Its number, from 1.
    pub number: u32,
    /// Its `ETag`.
    pub etag: String,
    /// Its SHA-256, where the upload binds parts to digests.
    pub digest: Option<Digest>,
}

/// A multipart upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipartUpload {
    /// S3's id of it.
    pub upload_id: String,
}

impl Bucket {
    /// Makes no call; the client is built when it is first used.
    pub(crate) fn new(config: &Config, clients: &Clients) -> Self {
        Self {
            client: clients.s3(),
            name: config.bucket.clone(),
            presign_seconds: config.presign_seconds,
        }
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long presigned requests live, in seconds.
    pub fn presign_seconds(&self) -> u64 {
        self.presign_seconds
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    fn presigning(&self) -> Result<PresigningConfig> {
        PresigningConfig::expires_in(Duration::from_secs(self.presign_seconds))
            .map_err(|error| Error::internal("presigning", error))
    }

    /// Presigns one PUT, bound to exact length and SHA-256; no call.
    pub async fn presign_put(
        &self,
        key: &str,
        size_bytes: u64,
        digest: &Digest,
        media_type: &str,
    ) -> Result<PresignedRequest> {
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .content_length(i64::try_from(size_bytes).unwrap_or(i64::MAX))
            .content_type(media_type)
            .checksum_sha256(digest.base64())
            .presigned(self.presigning()?)
            .await
            .map_err(|error| failed("presigning an upload", error))?;
        Ok(presigned("PUT", &request))
    }

    /// Begins a multipart upload; with `bind_parts` each part will be bound to its SHA-256.
    pub async fn begin_multipart(
        &self,
        key: &str,
        media_type: &str,
        bind_parts: bool,
    ) -> Result<MultipartUpload> {
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .content_type(media_type);
        if bind_parts {
            request = request
                .checksum_algorithm(ChecksumAlgorithm::Sha256)
                .checksum_type(ChecksumType::Composite);
        }
        let begun = request
            .send()
            .await
            .map_err(|error| failed("beginning a multipart upload", error))?;
        match begun.upload_id {
            Some(upload_id) => Ok(MultipartUpload { upload_id }),
            None => Err(Error::internal(
                "beginning a multipart upload",
                "S3 gave no upload id",
            )),
        }
    }

    /// Presigns one part, bound to exact length and, where given, SHA-256; no call.
    pub async fn presign_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u64,
        size_bytes: u64,
        digest: Option<&Digest>,
    ) -> Result<PresignedRequest> {
        let request = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .content_length(i64::try_from(size_bytes).unwrap_or(i64::MAX))
            .set_checksum_sha256(digest.map(Digest::base64))
            .presigned(self.presigning()?)
            .await
            .map_err(|error| failed("presigning a part", error))?;
        Ok(presigned("PUT", &request))
    }

    /// Presigns the download of one object, pinned to a version of it; no call.
    pub async fn presign_get(
        &self,
        key: &str,
        object_version: Option<&str>,
        file_name: &str,
    ) -> Result<PresignedRequest> {
        self.presign_get_for(key, object_version, file_name, self.presign_seconds)
            .await
    }

    /// Presigns such a download for a number of seconds.
    pub async fn presign_get_for(
        &self,
        key: &str,
        object_version: Option<&str>,
        file_name: &str,
        seconds: u64,
    ) -> Result<PresignedRequest> {
        let presigning = PresigningConfig::expires_in(Duration::from_secs(seconds))
            .map_err(|error| Error::internal("presigning", error))?;
        let quoted: String = file_name
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || b".-_".contains(&byte) {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
        let request = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(object_version.map(str::to_owned))
            .response_content_disposition(format!("attachment; filename*=UTF-8''{quoted}"))
            .presigned(presigning)
            .await
            .map_err(|error| failed("presigning a download", error))?;
        Ok(presigned("GET", &request))
    }

    /// The parts that S3 has of an upload; `None` if there is no such upload any more.
    pub async fn parts(&self, key: &str, upload_id: &str) -> Result<Option<Vec<CompletedPart>>> {
        let mut parts = Vec::new();
        let mut marker = None;
        loop {
            let sent = self
                .client
                .list_parts()
                .bucket(&self.name)
                .key(key)
                .upload_id(upload_id)
                .set_part_number_marker(marker)
                .send()
                .await;
            let page = match sent {
                Ok(page) => page,
                Err(error) if code_of(&error) == Some("NoSuchUpload") => return Ok(None),
                Err(error) => return Err(failed("listing parts", error)),
            };
            for part in page.parts() {
                parts.push(CompletedPart {
                    number: part
                        .part_number()
                        .and_then(|number| u32::try_from(number).ok())
                        .unwrap_or(0),
                    etag: part.e_tag().unwrap_or_default().to_owned(),
                    digest: part.checksum_sha256().and_then(Digest::from_base64),
                });
            }
            if page.is_truncated() != Some(true) {
                return Ok(Some(parts));
            }
            marker = page.next_part_number_marker;
        }
    }

    /// Completes a multipart upload; the object, and its event, appear at once and whole.
    ///
    /// Answers `false` if there is no such upload any more: it was completed before, or aborted.
    pub async fn complete_multipart(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<bool> {
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .multipart_upload(joined(parts))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) => match code_of(&error) {
                Some("NoSuchUpload") => Ok(false),
                Some(code @ ("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "InvalidRequest" | "BadDigest")) => {
                    Err(Error::new(
                        ErrorCode::UploadIncomplete,
                        format!("S3 refuses to join the parts of `{key}` ({code}); upload the parts that are missing or wrong"),
                    )
                    .with("key", key))
                }
                _ => Err(failed("completing a multipart upload", error)),
            },
        }
    }

    /// Every object under a prefix, at most `most`.
    pub async fn list(&self, prefix: &str, most: usize) -> Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        let mut token = None;
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(prefix)
                .set_continuation_token(token)
                .send()
                .await
                .map_err(|error| failed("listing objects", error))?;
            for object in page.contents() {
                objects.push(ObjectInfo {
                    key: object.key().unwrap_or_default().to_owned(),
                    size_bytes: object
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                    etag: object.e_tag().unwrap_or_default().to_owned(),
                    modified_at: object
                        .last_modified()
                        .and_then(|time| time.to_millis().ok())
                        .and_then(|millis| u64::try_from(millis).ok())
                        .map_or(Timestamp::default(), Timestamp::from_millis),
                });
            }
            token = page.next_continuation_token;
            if token.is_none() || objects.len() >= most {
                return Ok(objects);
            }
        }
    }

    /// Whether a multipart upload under a prefix has begun and not ended.
    pub async fn has_uploads_under_way(&self, prefix: &str) -> Result<bool> {
        let listed = self
            .client
            .list_multipart_uploads()
            .bucket(&self.name)
            .prefix(prefix)
            .max_uploads(1)
            .send()
            .await
            .map_err(|error| failed("listing uploads", error))?;
        Ok(!listed.uploads().is_empty())
    }

    /// What S3 knows of an object; `None` if there is none.
    pub async fn head(
        &self,
        key: &str,
        object_version: Option<&str>,
    ) -> Result<Option<ObjectHead>> {
        let sent = self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(object_version.map(str::to_owned))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        match sent {
            Ok(head) => Ok(Some(ObjectHead {
                size_bytes: head
                    .content_length()
                    .and_then(|size| u64::try_from(size).ok())
                    .unwrap_or(0),
                etag: head.e_tag().unwrap_or_default().to_owned(),
                object_version: head.version_id().map(str::to_owned),
                // A composite checksum, `…-N`, is a checksum of checksums and says nothing of the whole.
                digest: head
                    .checksum_sha256()
                    .filter(|_| head.checksum_type() != Some(&ChecksumType::Composite))
                    .and_then(Digest::from_base64),
            })),
            Err(error)
                if error.as_service_error().is_some_and(
                    aws_sdk_s3::operation::head_object::HeadObjectError::is_not_found,
                ) =>
            {
                Ok(None)
            }
            Err(error)
                if matches!(
                    error.raw_response().map(|raw| raw.status().as_u16()),
                    Some(404 | 405)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed("looking at an object", error)),
        }
    }

    /// Reads a range of an object, pinned to a version and an `ETag` of it.
    ///
    /// Answers `None` if the object is gone, or is another one than was pinned.
    pub async fn read_range(
        &self,
        key: &str,
        object_version: Option<&str>,
        etag: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>> {
        if range.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let sent = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(object_version.map(str::to_owned))
            .if_match(etag)
            .range(format!("bytes={}-{}", range.start, range.end - 1))
            .send()
            .await;
        match sent {
            Ok(object) => {
                let bytes = collect(object.body).await?;
                if bytes.len() as u64 == range.end - range.start {
                    Ok(Some(bytes))
                } else {
                    Ok(None)
                }
            }
            Err(error) => match code_of(&error) {
                Some(
                    "NoSuchKey" | "NoSuchVersion" | "PreconditionFailed" | "InvalidRange"
                    | "MethodNotAllowed",
                ) => Ok(None),
                _ => Err(failed("reading a range", error)),
            },
        }
    }

    /// Reads an object of ours whole, unless it has more than so many bytes; `None` if there is none, or it has.
    pub async fn read_at_most(&self, key: &str, most: u64) -> Result<Option<Bytes>> {
        let sent = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .range(format!("bytes=0-{most}"))
            .send()
            .await;
        match sent {
            Ok(object) => {
                let bytes = collect(object.body).await?;
                Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= most))
            }
            Err(error) if matches!(code_of(&error), Some("NoSuchKey" | "InvalidRange")) => Ok(None),
            Err(error) => Err(failed("reading an object", error)),
        }
    }

    /// Reads a small object of ours whole; `None` if there is none.
    pub async fn read_whole(
        &self,
        key: &str,
        object_version: Option<&str>,
    ) -> Result<Option<Bytes>> {
        let sent = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(object_version.map(str::to_owned))
            .send()
            .await;
        match sent {
            Ok(object) => collect(object.body).await.map(Some),
            Err(error) if matches!(code_of(&error), Some("NoSuchKey" | "NoSuchVersion")) => {
                Ok(None)
            }
            Err(error) => Err(failed("reading an object", error)),
        }
    }

    /// Writes an object of ours that is never overwritten; whether it was written now.
    pub async fn put_immutable(&self, key: &str, body: Bytes, media_type: &str) -> Result<bool> {
        self.put_sealed(key, body, media_type, None).await
    }

    /// The same, with an object lock in compliance mode until a time, in a bucket that has locks.
    pub async fn put_sealed(
        &self,
        key: &str,
        body: Bytes,
        media_type: &str,
        until: Option<Timestamp>,
    ) -> Result<bool> {
        let seconds = until.map(|until| i64::try_from(until.seconds()).unwrap_or(i64::MAX));
        let sent = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .content_type(media_type)
            .checksum_sha256(Digest::of(&body).base64())
            .if_none_match("*")
            .set_object_lock_mode(until.map(|_| ObjectLockMode::Compliance))
            .set_object_lock_retain_until_date(seconds.map(DateTime::from_secs))
            .body(ByteStream::from(body))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) if code_of(&error) == Some("PreconditionFailed") => Ok(false),
            // Another writer is at it, and may yet fail.
            Err(error) if code_of(&error) == Some("ConditionalRequestConflict") => Err(Error::new(
                ErrorCode::Unavailable,
                "S3: another write of the same object is under way",
            )
            .caused_by(error)),
            Err(error) => Err(failed("writing an object", error)),
        }
    }

    /// Hides objects behind delete markers, each only if it still has this `ETag`; pinned versions stay readable.
    pub async fn hide(&self, objects: &[(String, String)]) -> Result<()> {
        for chunk in objects.chunks(1000) {
            let objects = chunk
                .iter()
                .map(|(key, etag)| ObjectIdentifier::builder().key(key).e_tag(etag).build())
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| Error::internal("hiding objects", error))?;
            // An object that was exchanged meanwhile is a new one, and stays.
            self.delete("hiding objects", objects, "PreconditionFailed")
                .await?;
        }
        Ok(())
    }
}

/// The parts of an upload, as S3 wants them named when it joins them.
pub(super) fn joined(parts: &[CompletedPart]) -> CompletedMultipartUpload {
    let parts = parts
        .iter()
        .map(|part| {
            SdkPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(&part.etag)
                .set_checksum_sha256(part.digest.as_ref().map(Digest::base64))
                .build()
        })
        .collect();
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build()
}

pub(super) async fn collect(body: ByteStream) -> Result<Bytes> {
    body.collect()
        .await
        .map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes)
        .map_err(|error| {
            Error::new(ErrorCode::Unavailable, "S3: the bytes stopped coming").caused_by(error)
        })
}

pub(super) fn presigned(
    method: &'static str,
    request: &aws_sdk_s3::presigning::PresignedRequest,
) -> PresignedRequest {
    let headers = request
        .headers()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    PresignedRequest {
        method,
        url: request.uri().to_owned(),
        headers,
    }
}

pub(super) fn code_of<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Option<&str> {
    error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
}

pub(super) fn failed<E, R>(doing: &str, error: SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let code = match &error {
        SdkError::ServiceError(service) => match service.err().code() {
            Some("SlowDown" | "Throttling" | "RequestLimitExceeded") => ErrorCode::Throttled,
            Some("InternalError" | "ServiceUnavailable") => ErrorCode::Unavailable,
            _ => ErrorCode::Internal,
        },
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            ErrorCode::Unavailable
        }
        _ => ErrorCode::Internal,
    };
    Error::new(code, format!("S3: {doing}")).caused_by(error)
}
