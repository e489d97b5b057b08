//! Removing objects for good. One function alone is allowed to, and only what no version refers to.

use super::bucket::{Bucket, failed};
use crate::domain::Timestamp;
use crate::error::{Error, ErrorCode, Result};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

/// A version of an object, or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Its key.
    pub key: String,
    /// Its version id.
    pub object_version: String,
    /// When it was written.
    pub written_at: Timestamp,
    /// Its size in bytes; a delete marker has none.
    pub size_bytes: u64,
}

impl Bucket {
    /// Every version of every object under a prefix, delete markers too.
    pub async fn list_versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        let time = |time: Option<&aws_sdk_s3::primitives::DateTime>| {
            time.and_then(|time| time.to_millis().ok())
                .and_then(|millis| u64::try_from(millis).ok())
                .map_or(Timestamp::default(), Timestamp::from_millis)
        };
        let mut found = Vec::new();
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(&self.name)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_version_id_marker(version_marker)
                .send()
                .await
                .map_err(|error| failed("listing versions of objects", error))?;
            found.extend(page.versions().iter().filter_map(|version| {
                Some(ObjectVersion {
                    key: version.key()?.to_owned(),
                    object_version: version.version_id()?.to_owned(),
                    written_at: time(version.last_modified()),
                    size_bytes: version
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                })
            }));
            found.extend(page.delete_markers().iter().filter_map(|marker| {
                Some(ObjectVersion {
                    key: marker.key()?.to_owned(),
                    object_version: marker.version_id()?.to_owned(),
                    written_at: time(marker.last_modified()),
                    size_bytes: 0,
                })
            }));
            if page.is_truncated() != Some(true) {
                return Ok(found);
            }
            key_marker = page.next_key_marker;
            version_marker = page.next_version_id_marker;
        }
    }

    /// Removes versions of objects for good; one that is gone already is no error.
    pub async fn remove_versions(&self, objects: &[ObjectVersion]) -> Result<()> {
        for chunk in objects.chunks(1000) {
            let objects = chunk
                .iter()
                .map(|object| {
                    ObjectIdentifier::builder()
                        .key(&object.key)
                        .version_id(&object.object_version)
                        .build()
                })
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| Error::internal("removing objects", error))?;
            self.delete("removing objects", objects, "NoSuchVersion")
                .await?;
        }
        Ok(())
    }

    /// Deletes up to 1,000 objects in one call; `harmless` is the code of what may be in the way of one.
    pub(super) async fn delete(
        &self,
        what: &'static str,
        objects: Vec<ObjectIdentifier>,
        harmless: &str,
    ) -> Result<()> {
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(|error| Error::internal(what, error))?;
        let answer = self
            .client
            .delete_objects()
            .bucket(&self.name)
            .delete(delete)
            .send()
            .await
            .map_err(|error| failed(what, error))?;
        match answer
            .errors()
            .iter()
            .find(|error| error.code() != Some(harmless))
        {
            None => Ok(()),
            Some(error) => Err(Error::new(
                ErrorCode::Unavailable,
                format!(
                    "S3: {what}: `{}` failed ({})",
                    error.key().unwrap_or_default(),
                    error.code().unwrap_or_default()
                ),
            )),
        }
    }
}
