//! Copies within the bucket: pinned to what is copied, and never over anything.
//!
//! S3 hashes what it copies: of one call's copy it tells the SHA-256, of a copy by parts the SHA-256 of each part.
//! Conditions: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>

use super::bucket::{Bucket, CompletedPart, code_of, failed, joined};
use crate::domain::Digest;
use crate::error::{Error, ErrorCode, Result};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, MetadataDirective, TaggingDirective};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::ops::Range;
use std::time::Duration;

/// How long S3 may take to copy what one call copies: 5 GiB at 10 MB a second, and no call is answered before.
const COPY_SECONDS: u64 = 540;

/// Most bytes that one call of S3 copies, whole or as a part.
pub const MOST_COPIED_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// What stands as it is in the name of a copy's source.
const IN_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// An object that is copied, exactly as it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its key.
    pub key: String,
    /// Its version id, in a versioned bucket.
    pub object_version: Option<String>,
    /// Its `ETag`.
    pub etag: String,
}

/// An object that was made by copying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its version id, in a versioned bucket.
    pub object_version: Option<String>,
    /// Its `ETag`.
    pub etag: String,
    /// SHA-256 of the whole, where S3 computed one: not of what was copied by parts.
    pub digest: Option<Digest>,
}

/// What became of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copy {
    /// It was made now.
    Made(Copied),
    /// There is an object under that key already, which stays as it is.
    Exists,
    /// The source is gone, or is not what it was.
    SourceGone,
}

/// What S3 told of an object that it was asked to hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hashed {
    /// Its SHA-256.
    Sha256(Digest),
    /// Nothing: this store copies without hashing.
    Untold,
    /// The object is gone, or is not what it was.
    SourceGone,
}

/// The configuration of a call that answers when a copy is done.
fn patient() -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder().timeout_config(
        TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(COPY_SECONDS))
            .build(),
    )
}

impl Bucket {
    fn source_of(&self, source: &Source) -> String {
        let key = utf8_percent_encode(&source.key, IN_SOURCE);
        match &source.object_version {
            Some(version) => format!(
                "{}/{key}?versionId={}",
                self.name,
                utf8_percent_encode(version, IN_SOURCE)
            ),
            None => format!("{}/{key}", self.name),
        }
    }

    /// Copies an object of at most [`MOST_COPIED_BYTES`] in one call; headers and tags of the source stay behind.
    pub async fn copy_immutable(
        &self,
        source: &Source,
        key: &str,
        media_type: &str,
    ) -> Result<Copy> {
        let sent = self
            .client
            .copy_object()
            .bucket(&self.name)
            .key(key)
            .copy_source(self.source_of(source))
            .copy_source_if_match(&source.etag)
            .if_none_match("*")
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .metadata_directive(MetadataDirective::Replace)
            .tagging_directive(TaggingDirective::Replace)
            .content_type(media_type)
            .customize()
            .config_override(patient())
            .send()
            .await;
        match sent {
            Ok(copied) => {
                let result = copied.copy_object_result();
                Ok(Copy::Made(Copied {
                    object_version: copied.version_id().map(str::to_owned),
                    etag: result
                        .and_then(|result| result.e_tag())
                        .unwrap_or_default()
                        .to_owned(),
                    digest: result
                        .and_then(|result| result.checksum_sha256())
                        .and_then(Digest::from_base64),
                }))
            }
            Err(error) => match code_of(&error) {
                Some("NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed") => Ok(Copy::SourceGone),
                // Either condition may have failed; whoever asks looks at the key next.
                Some("PreconditionFailed") => Ok(if self.head(key, None).await?.is_some() {
                    Copy::Exists
                } else {
                    Copy::SourceGone
                }),
                Some("ConditionalRequestConflict") => Err(under_way().caused_by(error)),
                _ => Err(failed("copying an object", error)),
            },
        }
    }

    /// Begins a multipart upload whose parts S3 hashes.
    pub async fn begin_copy(&self, key: &str, media_type: &str) -> Result<String> {
        Ok(self.begin_multipart(key, media_type, true).await?.upload_id)
    }

    /// Copies a range of an object as a part; `None` if the source is gone or is not what it was.
    pub async fn copy_part(
        &self,
        source: &Source,
        range: Range<u64>,
        key: &str,
        upload_id: &str,
        number: u32,
    ) -> Result<Option<CompletedPart>> {
        self.copy_as_part(source, Some(range), key, upload_id, number)
            .await
    }

    /// The same, of the whole object without a range: S3 takes a range of objects over 5 MB only.
    async fn copy_as_part(
        &self,
        source: &Source,
        range: Option<Range<u64>>,
        key: &str,
        upload_id: &str,
        number: u32,
    ) -> Result<Option<CompletedPart>> {
        let sent = self
            .client
            .upload_part_copy()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .copy_source(self.source_of(source))
            .copy_source_if_match(&source.etag)
            .set_copy_source_range(
                range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)),
            )
            .customize()
            .config_override(patient())
            .send()
            .await;
        match sent {
            Ok(copied) => {
                let result = copied.copy_part_result();
                Ok(Some(CompletedPart {
                    number,
                    etag: result
                        .and_then(|result| result.e_tag())
                        .unwrap_or_default()
                        .to_owned(),
                    digest: result
                        .and_then(|result| result.checksum_sha256())
                        .and_then(Digest::from_base64),
                }))
            }
            Err(error) => match code_of(&error) {
                Some("NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed" | "PreconditionFailed") => {
                    Ok(None)
                }
                Some("NoSuchUpload") => Err(under_way().caused_by(error)),
                _ => Err(failed("copying a part", error)),
            },
        }
    }

    /// Lets S3 compute the SHA-256 of an object of at most [`MOST_COPIED_BYTES`]; reads nothing.
    ///
    /// The object is copied as the only part of an upload under `key`, whose SHA-256 S3 tells, and the upload is given
    /// up: no object is made, and what a cut leaves goes with other abandoned uploads.
    /// Source: `ChecksumSHA256` of <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyPartResult.html>.
    pub async fn hash(&self, source: &Source, key: &str) -> Result<Hashed> {
        let upload_id = self.begin_copy(key, "application/octet-stream").await?;
        let copied = self.copy_as_part(source, None, key, &upload_id, 1).await;
        let given_up = self.abort_upload(key, &upload_id).await;
        let hashed = match copied? {
            Some(CompletedPart {
                digest: Some(digest),
                ..
            }) => Hashed::Sha256(digest),
            Some(CompletedPart { digest: None, .. }) => Hashed::Untold,
            None => Hashed::SourceGone,
        };
        given_up?;
        Ok(hashed)
    }

    /// Uploads a part from memory, bound to its SHA-256.
    pub async fn put_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        bytes: Bytes,
    ) -> Result<CompletedPart> {
        let digest = Digest::of(&bytes);
        let sent = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .checksum_sha256(digest.base64())
            .body(ByteStream::from(bytes))
            .send()
            .await;
        match sent {
            Ok(part) => Ok(CompletedPart {
                number,
                etag: part.e_tag().unwrap_or_default().to_owned(),
                digest: Some(digest),
            }),
            Err(error) if code_of(&error) == Some("NoSuchUpload") => {
                Err(under_way().caused_by(error))
            }
            Err(error) => Err(failed("uploading a part", error)),
        }
    }

    /// Completes an upload unless there is an object under that key already.
    ///
    /// `None` if there is one, or no such upload any more: another completed it.
    pub async fn complete_immutable(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<Option<Copied>> {
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .if_none_match("*")
            .checksum_type(ChecksumType::Composite)
            .multipart_upload(joined(parts))
            .send()
            .await;
        match sent {
            Ok(completed) => Ok(Some(Copied {
                object_version: completed.version_id().map(str::to_owned),
                etag: completed.e_tag().unwrap_or_default().to_owned(),
                digest: None,
            })),
            Err(error) => match code_of(&error) {
                Some("NoSuchUpload" | "PreconditionFailed") => Ok(None),
                Some("ConditionalRequestConflict") => Err(under_way().caused_by(error)),
                _ => Err(failed("completing a copy", error)),
            },
        }
    }

    /// The ids of uploads of exactly this key that began and did not end, the oldest first.
    pub async fn uploads_of(&self, key: &str) -> Result<Vec<String>> {
        Ok(self
            .uploads_under(key)
            .await?
            .into_iter()
            .filter(|(of, _)| of == key)
            .map(|(_, id)| id)
            .collect())
    }

    /// Key and id of every upload under a prefix that began and did not end.
    pub async fn uploads_under(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let mut uploads = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.name)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker)
                .send()
                .await
                .map_err(|error| failed("listing uploads", error))?;
            uploads.extend(page.uploads().iter().filter_map(|upload| {
                Some((upload.key()?.to_owned(), upload.upload_id()?.to_owned()))
            }));
            if page.is_truncated() != Some(true) {
                return Ok(uploads);
            }
            key_marker = page.next_key_marker;
            id_marker = page.next_upload_id_marker;
        }
    }

    /// Ends an upload and frees its parts; one that ended already is no error.
    pub async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<()> {
        let sent = self
            .client
            .abort_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload_id)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if code_of(&error) == Some("NoSuchUpload") => Ok(()),
            Err(error) => Err(failed("aborting an upload", error)),
        }
    }
}

fn under_way() -> Error {
    Error::new(
        ErrorCode::Unavailable,
        "S3: another write of the same object is under way",
    )
}
