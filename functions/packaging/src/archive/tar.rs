//! Headers of a tar archive: POSIX ustar, with pax records where a path or a size does not fit.
//!
//! Format: <https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html>.
//! Nothing of the machine or the time is in them, so that an archive of the same files has the same bytes.

/// What everything in an archive is a multiple of, in bytes.
pub(super) const BLOCK: u64 = 512;
/// Zeros at the end of an archive, in bytes.
pub(super) const TRAILER: u64 = 2 * BLOCK;
/// Sizes from here on do not fit into eleven octal digits.
const LARGE: u64 = 1 << 33;

/// Everything that comes before the bytes of a file.
pub(super) fn header(path: &str, size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let name = if path.is_ascii() { split(path) } else { None };
    if name.is_none() {
        records.extend(record("path", path));
    }
    if size >= LARGE {
        records.extend(record("size", &size.to_string()));
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        bytes.extend(block("", "././@PaxHeader", records.len() as u64, b'x'));
        let length = records.len();
        bytes.extend(records);
        bytes.resize(bytes.len() + padding(length as u64), 0);
    }
    let (prefix, name) = name.unwrap_or_else(|| ("", shortened(path)));
    bytes.extend(block(
        prefix,
        name,
        if size >= LARGE { 0 } else { size },
        b'0',
    ));
    bytes
}

/// Zeros after so many bytes of content.
pub(super) fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0)
}

/// Prefix and name of a path that fits into both.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
}

/// What readers without pax see of a path that does not fit.
fn shortened(path: &str) -> &str {
    let mut end = path.len().min(100);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

/// A pax record, which says its own length.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

/// One header block.
fn block(prefix: &str, name: &str, size: u64, kind: u8) -> Vec<u8> {
    let mut block = vec![0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_its_own_length() {
        for length in [1, 80, 88, 89, 90, 91, 92, 988, 990, 991, 992] {
            let record = record("path", &"x".repeat(length));
            let text = String::from_utf8(record).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len());
        }
    }

    #[test]
    fn headers_are_whole_blocks() {
        for path in ["a", &"d/".repeat(120), &"x".repeat(512), "検査/モデル.bin"] {
            for size in [0, 1, LARGE - 1, LARGE, 5 << 40] {
                assert_eq!(header(path, size).len() % 512, 0);
            }
        }
        assert_eq!((padding(0), padding(1), padding(512)), (0, 511, 0));
    }
}
