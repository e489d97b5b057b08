//! The files of a version as one thing: their checksum file, and the digest that names the set.
//!
//! Two versions that have the same files under the same paths have the same set, whatever else tells them apart.

use crate::domain::{Artifact, Digest};
use std::fmt::Write as _;

/// The checksum file of these artifacts, as `sha256sum -c` reads it: one line for each, in the order of the paths.
///
/// No path has a character that would have to be escaped.
pub fn checksum_file(artifacts: &[Artifact]) -> String {
    let mut sorted: Vec<&Artifact> = artifacts.iter().collect();
    sorted.sort_by(|left, right| left.path.cmp(&right.path));
    let mut text = String::with_capacity(sorted.len() * 100);
    for artifact in sorted {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}  {}", artifact.digest.hex(), artifact.path);
    }
    text
}

/// The digest that names a set of files: that of its checksum file.
pub fn digest(artifacts: &[Artifact]) -> Digest {
    Digest::of(checksum_file(artifacts).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ArtifactPath;

    fn artifact(path: &str, content: &[u8]) -> Artifact {
        Artifact {
            path: ArtifactPath::parse(path).unwrap(),
            size_bytes: content.len() as u64,
            digest: Digest::of(content),
            media_type: "application/octet-stream".into(),
            key: None,
            packaged: false,
            object_version: None,
            etag: String::new(),
        }
    }

    #[test]
    fn a_set_is_its_paths_and_contents_and_nothing_else() {
        let first = [artifact("b", b"2"), artifact("a", b"1")];
        let mut second = [artifact("a", b"1"), artifact("b", b"2")];
        second[0].packaged = true;
        second[1].key = Some("models/default/other/1/b".into());
        assert_eq!(digest(&first), digest(&second));
        assert_ne!(digest(&first), digest(&[artifact("a", b"1")]));
        assert_ne!(
            digest(&first),
            digest(&[artifact("b", b"1"), artifact("a", b"2")])
        );
    }

    #[test]
    fn the_checksum_file_is_that_of_sha256sum() {
        assert_eq!(
            checksum_file(&[artifact("data/x y.bin", b""), artifact("a", b"abc")]),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  data/x y.bin\n"
        );
    }
}
