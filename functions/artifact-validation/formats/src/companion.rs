//! Binary files that accompany a model without being one: pictures of its documentation, vocabularies of tokenizers.

use crate::check::Check;
use crate::protobuf::outline;
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use crate::text::extension;
use crate::zip::{END_REACH, ends_like_zip};

const PICTURE: Rule = Rule {
    id: "companion.picture-content",
    verdict: Verdict::Malformed,
    why: "A picture that ends like an archive is meant to be read as one.",
    fix: "Save the picture again, or leave it out of the version.",
};

/// The rules of companions.
pub const RULES: &[Rule] = &[PICTURE];

/// Beginnings of pictures, with the extensions that they may have.
const PICTURES: &[(&[u8], &[&str])] = &[
    (b"\x89PNG\r\n\x1a\n", &["png"]),
    (b"\xff\xd8\xff", &["jpg", "jpeg"]),
    (b"GIF87a", &["gif"]),
    (b"GIF89a", &["gif"]),
    (b"RIFF", &["webp"]),
];

/// Whether the content is a picture under its own name, or a vocabulary of `SentencePiece`.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, size: u64) -> bool {
    let extension = extension(path).unwrap_or_default();
    PICTURES.iter().any(|(magic, extensions)| {
        head.starts_with(magic) && extensions.contains(&extension.as_str())
    }) || is_vocabulary(head, &extension, size)
}

/// A `SentencePiece` model: pieces, and the specifications of its trainer and normalizer.
fn is_vocabulary(head: &[u8], extension: &str, size: u64) -> bool {
    let fields = outline(head, size);
    matches!(extension, "model" | "spm" | "bpe")
        && fields.first() == Some(&(1, 2))
        && fields
            .iter()
            .all(|(number, kind)| matches!(number, 1..=5) && *kind == 2)
        && head.starts_with(&[0x0a])
}

/// Inspects a companion: nothing in it is run by whoever reads it.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let size = check.size();
    let tail = check.read(size.saturating_sub(END_REACH)..size)?;
    if ends_like_zip(check.source, &tail)? {
        check.find(&PICTURE, None, "the file ends like a zip archive");
    }
    Ok(())
}
