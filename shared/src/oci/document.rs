//! What a packaged version is to OCI clients: its manifests, byte for byte as they were made.

use crate::domain::Digest;
use crate::error::{Error, Result};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};

/// A manifest or an index of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Digest of its bytes, which is its name.
    pub digest: Digest,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The bytes; absent where they are too many for an item, and are an object of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
}

impl Manifest {
    /// A manifest of these bytes.
    pub fn of(json: String) -> Self {
        Self {
            digest: Digest::of(json.as_bytes()),
            size_bytes: json.len() as u64,
            json: Some(json),
        }
    }
}

/// What a packaged version is to OCI clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciDocument {
    /// The manifest of the version; absent of a version with too many files for one.
    pub manifest: Option<Manifest>,
    /// The manifests of its attestations, whose subject is the version's.
    pub referrers: Vec<Manifest>,
    /// The index of these.
    pub index: Option<Manifest>,
    /// Digests of what the package holds besides: the configuration and the attestations.
    pub blobs: Vec<Digest>,
}

impl OciDocument {
    /// The document as it is stored: digests aside, manifests say the same again and again.
    pub fn zip(&self) -> Result<Vec<u8>> {
        let doing = "writing an OCI document";
        let json = serde_json::to_vec(self).map_err(|error| Error::internal(doing, error))?;
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder
            .write_all(&json)
            .and_then(|()| encoder.finish())
            .map_err(|error| Error::internal(doing, error))
    }

    /// Reads the stored form.
    pub fn unzip(zipped: &[u8]) -> Result<Self> {
        let doing = "reading an OCI document";
        let mut json = Vec::new();
        ZlibDecoder::new(zipped)
            .read_to_end(&mut json)
            .map_err(|error| Error::internal(doing, error))?;
        serde_json::from_slice(&json).map_err(|error| Error::internal(doing, error))
    }

    /// All manifests.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifest
            .iter()
            .chain(&self.referrers)
            .chain(&self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_back_and_small() {
        let manifest = |name: &str| {
            let layer = format!("{{\"digest\":\"{}\"}},", Digest::of(name.as_bytes()));
            Manifest::of(layer.repeat(20))
        };
        let document = OciDocument {
            manifest: Some(manifest("m")),
            referrers: vec![manifest("a"), manifest("b")],
            index: None,
            blobs: vec![Digest::of(b"c")],
        };
        let zipped = document.zip().unwrap();
        assert!(zipped.len() < 1_000, "{}", zipped.len());
        assert_eq!(OciDocument::unzip(&zipped).unwrap(), document);
        assert_eq!(document.manifests().count(), 3);
        assert!(OciDocument::unzip(b"no document").is_err());
    }
}
