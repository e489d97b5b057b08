//! Verbs for files that clients keep with runs and logged models: written again as they like, by whoever has a URL.

use super::bucket::{Bucket, CompletedPart, PresignedRequest, code_of, collect, failed, presigned};
use crate::error::{Error, Result};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use std::time::Duration;

/// What lies directly in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// Its files: names and sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// Its folders, by their names.
    pub folders: Vec<String>,
}

/// An object that was read if it is small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallObject {
    /// Its bytes; nothing if it is larger than asked for.
    pub bytes: Option<Bytes>,
}

fn presigning(seconds: u64) -> Result<PresigningConfig> {
    PresigningConfig::expires_in(Duration::from_secs(seconds))
        .map_err(|error| Error::internal("presigning", error))
}

impl Bucket {
    /// Presigns one part of any length; no call.
    pub async fn presign_open_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        seconds: u64,
    ) -> Result<PresignedRequest> {
        let request = self
            .client()
            .upload_part()
            .bucket(self.name())
            .key(key)
            .upload_id(upload_id)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .presigned(presigning(seconds)?)
            .await
            .map_err(|error| failed("presigning a part", error))?;
        Ok(presigned("PUT", &request))
    }

    /// Presigns one PUT of any bytes; no call.
    pub async fn presign_open_put(&self, key: &str, seconds: u64) -> Result<PresignedRequest> {
        let request = self
            .client()
            .put_object()
            .bucket(self.name())
            .key(key)
            .presigned(presigning(seconds)?)
            .await
            .map_err(|error| failed("presigning an upload", error))?;
        Ok(presigned("PUT", &request))
    }

    /// Writes an object, over what was there; its earlier version stays readable for whoever pinned it.
    pub async fn put(&self, key: &str, body: Bytes, media_type: &str) -> Result<()> {
        self.client()
            .put_object()
            .bucket(self.name())
            .key(key)
            .content_type(media_type)
            .body(ByteStream::from(body))
            .send()
            .await
            .map_err(|error| failed("writing an object", error))?;
        Ok(())
    }

    /// Ends a multipart upload and forgets its parts; it is no error if there is none.
    pub async fn abort_multipart(&self, key: &str, upload_id: &str) -> Result<()> {
        let sent = self
            .client()
            .abort_multipart_upload()
            .bucket(self.name())
            .key(key)
            .upload_id(upload_id)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if code_of(&error) == Some("NoSuchUpload") => Ok(()),
            Err(error) => Err(failed("aborting a multipart upload", error)),
        }
    }

    /// Completes a multipart upload; answers `true` too if it was completed before with as many parts.
    pub async fn complete_multipart_again(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
    ) -> Result<bool> {
        if self.complete_multipart(key, upload_id, parts).await? {
            return Ok(true);
        }
        // S3 ends the ETag of a joined object with the number of its parts.
        let suffix = format!("-{}", parts.len());
        let head = self.head(key, None).await?;
        Ok(head.is_some_and(|head| head.etag.trim_matches('"').ends_with(&suffix)))
    }

    /// What lies directly under a prefix that ends with `/`; nothing if there are more than `most` entries.
    pub async fn list_folder(&self, prefix: &str, most: usize) -> Result<Option<Folder>> {
        let mut folder = Folder::default();
        let mut token = None;
        let name = |key: Option<&str>| {
            key.and_then(|key| key.strip_prefix(prefix))
                .map(|name| name.trim_end_matches('/').to_owned())
                .filter(|name| !name.is_empty())
        };
        loop {
            let page = self
                .client()
                .list_objects_v2()
                .bucket(self.name())
                .prefix(prefix)
                .delimiter("/")
                .set_continuation_token(token)
                .send()
                .await
                .map_err(|error| failed("listing a folder", error))?;
            for object in page.contents() {
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                folder
                    .files
                    .extend(name(object.key()).map(|name| (name, size.unwrap_or(0))));
            }
            for common in page.common_prefixes() {
                folder.folders.extend(name(common.prefix()));
            }
            if folder.files.len() + folder.folders.len() > most {
                return Ok(None);
            }
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(Some(folder));
            }
        }
    }

    /// Hides a file, or a folder with all that lies in it, behind delete markers; answers how many objects.
    ///
    /// Pinned versions stay readable. Repeating it hides what came meanwhile.
    pub async fn hide_tree(&self, key: &str) -> Result<usize> {
        let folder = format!("{key}/");
        let mut hidden = 0;
        let mut token = None;
        loop {
            let page = self
                .client()
                .list_objects_v2()
                .bucket(self.name())
                .prefix(key)
                .set_continuation_token(token)
                .send()
                .await
                .map_err(|error| failed("listing what to hide", error))?;
            let keys: Vec<&str> = page
                .contents()
                .iter()
                .filter_map(|object| object.key())
                .collect();
            // Keys come in order: once past the folder, such as at `plots0`, no more of it follow.
            let is_past = keys
                .last()
                .is_some_and(|last| !last.starts_with(&folder) && *last > folder.as_str());
            let ours: Vec<&str> = keys
                .into_iter()
                .filter(|found| *found == key || found.starts_with(&folder))
                .collect();
            self.hide_all(&ours).await?;
            hidden += ours.len();
            token = page.next_continuation_token;
            if token.is_none() || is_past {
                return Ok(hidden);
            }
        }
    }

    /// Hides one file behind a delete marker; pinned versions stay readable. One call.
    pub async fn hide_object(&self, key: &str) -> Result<()> {
        self.hide_all(&[key]).await
    }

    async fn hide_all(&self, keys: &[&str]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(*key).build())
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| Error::internal("hiding objects", error))?;
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(|error| Error::internal("hiding objects", error))?;
        let answer = self
            .client()
            .delete_objects()
            .bucket(self.name())
            .delete(delete)
            .send()
            .await
            .map_err(|error| failed("hiding objects", error))?;
        match answer.errors().first() {
            None => Ok(()),
            Some(error) => Err(Error::new(
                crate::error::ErrorCode::Unavailable,
                format!("S3: hiding `{}` failed", error.key().unwrap_or_default()),
            )),
        }
    }

    /// Reads an object of at most `most` bytes with one call; nothing if there is none.
    pub async fn read_small(
        &self,
        key: &str,
        object_version: Option<&str>,
        most: u64,
    ) -> Result<Option<SmallObject>> {
        let sent = self
            .client()
            .get_object()
            .bucket(self.name())
            .key(key)
            .set_version_id(object_version.map(str::to_owned))
            .range(format!("bytes=0-{}", most.saturating_sub(1)))
            .send()
            .await;
        match sent {
            Ok(object) => {
                let whole = object
                    .content_range()
                    .and_then(|range| range.rsplit('/').next())
                    .and_then(|size| size.parse::<u64>().ok());
                if whole.is_some_and(|size| size > most) {
                    return Ok(Some(SmallObject { bytes: None }));
                }
                let bytes = Some(collect(object.body).await?);
                Ok(Some(SmallObject { bytes }))
            }
            Err(error) => match code_of(&error) {
                // An empty object has no first byte.
                Some("InvalidRange") => Ok(Some(SmallObject {
                    bytes: Some(Bytes::new()),
                })),
                Some("NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed") => Ok(None),
                _ => Err(failed("reading an object", error)),
            },
        }
    }
}
