//! Plans how S3 puts an archive together: which parts it copies, and what little passes through the function.
//!
//! Small files come first and are read. Of each large file the header and the beginning are read, just as much as makes
//! a part large enough; S3 copies the rest. The plan depends on paths and sizes alone, so that whoever goes on with an
//! archive makes the same parts.
//! Limits: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.

use super::tar;
use std::ops::Range;

/// The least that S3 takes as a part other than the last, in bytes.
pub(super) const LEAST_PART: u64 = 5 * 1024 * 1024;
/// The most that S3 takes as a part, in bytes.
pub(super) const MOST_PART: u64 = 5 * 1024 * 1024 * 1024;
/// Most parts of one object.
pub(super) const MOST_PARTS: usize = 10_000;
/// Largest object, in bytes.
const MOST_BYTES: u64 = 50_000_000_000_000;
/// Files from here on are copied, but for their beginning, in bytes: both halves make a part.
const LARGE: u64 = 2 * LEAST_PART;
/// A part that is read is full from here on, in bytes.
const FULL_PART: u64 = 16 * 1024 * 1024;

/// A file that goes into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path in the archive.
    pub(super) path: String,
    /// Its size in bytes.
    pub(super) size: u64,
}

/// A piece of a part that passes through the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A range of the file of this index.
    File(usize, Range<u64>),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, range) => range.end - range.start,
        }
    }
}

/// A part of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Put together here.
    Read(Vec<Piece>),
    /// Copied by S3 from a range of the file of this index.
    Copied(usize, Range<u64>),
}

impl Part {
    /// Its size in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Read(pieces) => pieces.iter().map(Piece::len).sum(),
            Self::Copied(_, range) => range.end - range.start,
        }
    }
}

/// Why an archive cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooLarge {
    /// It would have so many parts.
    Parts(usize),
    /// It would have so many bytes.
    Bytes(u64),
}

/// The order of files in an archive, by their indices: small ones by path, then large ones by path.
fn order(entries: &[Entry]) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..entries.len()).collect();
    indices.sort_by(|left, right| {
        let key = |index: &usize| (entries[*index].size >= LARGE, &entries[*index].path);
        key(left).cmp(&key(right))
    });
    indices
}

/// Plans an archive; `most_copied` is the largest part that is copied at once, in bytes.
pub(super) fn plan(entries: &[Entry], most_copied: u64) -> Result<Vec<Part>, TooLarge> {
    let most_copied = most_copied.clamp(LEAST_PART, MOST_PART);
    let mut parts = Vec::new();
    let mut pending: Vec<Piece> = Vec::new();
    let mut pending_len = 0;
    for index in order(entries) {
        let Entry { path, size } = &entries[index];
        let header = tar::header(path, *size);
        pending_len += header.len() as u64;
        pending.push(Piece::Bytes(header));
        if *size < LARGE {
            if *size > 0 {
                pending_len += size;
                pending.push(Piece::File(index, 0..*size));
            }
        } else {
            let head = LEAST_PART.saturating_sub(pending_len);
            if head > 0 {
                pending.push(Piece::File(index, 0..head));
            }
            parts.push(Part::Read(std::mem::take(&mut pending)));
            pending_len = 0;
            parts.extend(
                cut(head..*size, most_copied)
                    .into_iter()
                    .map(|range| Part::Copied(index, range)),
            );
        }
        let padding = tar::padding(*size);
        if padding > 0 {
            pending_len += padding as u64;
            pending.push(Piece::Bytes(vec![0; padding]));
        }
        if pending_len >= FULL_PART {
            parts.push(Part::Read(std::mem::take(&mut pending)));
            pending_len = 0;
        }
    }
    pending.push(Piece::Bytes(vec![
        0;
        usize::try_from(tar::TRAILER).unwrap_or(0)
    ]));
    parts.push(Part::Read(pending));
    let bytes: u64 = parts.iter().map(Part::len).sum();
    if parts.len() > MOST_PARTS {
        Err(TooLarge::Parts(parts.len()))
    } else if bytes > MOST_BYTES {
        Err(TooLarge::Bytes(bytes))
    } else {
        Ok(parts)
    }
}

/// Cuts a range of at least [`LEAST_PART`] into parts of nearly equal size, none below [`LEAST_PART`].
fn cut(range: Range<u64>, most: u64) -> Vec<Range<u64>> {
    let size = range.end - range.start;
    // As many as are needed, but not so many that one would be too small.
    let count = size.div_ceil(most).min((size / LEAST_PART).max(1)).max(1);
    (0..count)
        .map(|index| {
            let at = |index: u64| {
                range.start
                    + u64::try_from(u128::from(size) * u128::from(index) / u128::from(count))
                        .unwrap_or(size)
            };
            at(index)..at(index + 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    fn entries(sizes: &[u64]) -> Vec<Entry> {
        sizes
            .iter()
            .enumerate()
            .map(|(index, size)| Entry {
                path: format!("model-{index:05}.safetensors"),
                size: *size,
            })
            .collect()
    }

    /// Every byte of every file once and in order, within the limits of S3; answers what passes through the function.
    fn check(entries: &[Entry], parts: &[Part]) -> u64 {
        let mut read = vec![0; entries.len()];
        let mut through = 0;
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            assert!(
                is_last || part.len() >= LEAST_PART,
                "part {index}: {}",
                part.len()
            );
            assert!(part.len() <= MOST_PART);
            match part {
                Part::Read(pieces) => {
                    through += part.len();
                    assert!(part.len() < FULL_PART + LARGE + 4096);
                    for piece in pieces {
                        if let Piece::File(file, range) = piece {
                            assert_eq!(read[*file], range.start);
                            read[*file] = range.end;
                        }
                    }
                }
                Part::Copied(file, range) => {
                    assert_eq!(read[*file], range.start);
                    read[*file] = range.end;
                    // S3 copies ranges of sources over 5 MB only.
                    assert!(entries[*file].size > LEAST_PART);
                }
            }
        }
        for (file, read) in entries.iter().zip(read) {
            assert_eq!(file.size, read);
        }
        assert!(parts.len() <= MOST_PARTS);
        through
    }

    #[test]
    fn hundreds_of_gigabytes_pass_by_the_function() {
        let model = entries(&vec![4_900_000_000; 191]);
        let parts = plan(&model, MOST_PART).unwrap();
        let through = check(&model, &parts);
        assert_eq!(parts.len(), 383);
        let bytes: u64 = parts.iter().map(Part::len).sum();
        assert!(bytes > 935_000_000_000 && through < bytes / 800);
        let one = entries(&[4_900 * GIB]);
        let parts = plan(&one, MOST_PART).unwrap();
        assert!(check(&one, &parts) < 6 * MIB);
        // Few enough parts, and more than an object may have.
        assert!(matches!(
            plan(&entries(&[1_000 * GIB; 48]), MOST_PART),
            Err(TooLarge::Bytes(bytes)) if bytes > 48_000 * GIB
        ));
        assert_eq!(
            plan(&entries(&vec![LARGE; 6_000]), MOST_PART),
            Err(TooLarge::Parts(12_001))
        );
    }

    #[test]
    fn a_small_model_is_one_part() {
        let model = entries(&[10, 0, 512, 70_000]);
        let parts = plan(&model, MOST_PART).unwrap();
        assert_eq!(parts.len(), 1);
        check(&model, &parts);
        assert_eq!(plan(&[], MOST_PART).unwrap()[0].len(), tar::TRAILER);
    }

    proptest! {
        #[test]
        fn any_plan_keeps_the_limits(
            sizes in prop::collection::vec(
                prop_oneof![0..2 * MIB, 4 * MIB..12 * MIB, 9 * MIB..40 * MIB, GIB..60 * GIB], 0..60),
            most in 5 * MIB..6 * GIB,
        ) {
            let model = entries(&sizes);
            if let Ok(parts) = plan(&model, most) {
                check(&model, &parts);
                prop_assert_eq!(plan(&model, most).unwrap(), parts);
            }
        }
    }
}
