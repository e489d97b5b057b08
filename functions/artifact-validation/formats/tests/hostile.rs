//! Damaged files are judged without a panic, and quickly.

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Limits, inspect};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mutations of each file; together with the number of fixtures more than 20,000 cases.
const ROUNDS: usize = 140;
const LARGEST_FILE: usize = 16 * 1024;

/// A small generator, so that every run tries the same cases.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % below.max(1)
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .expect("the fixtures can be listed")
        .map(|entry| entry.expect("the fixtures can be listed").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn mutate(original: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.next(4) {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        let at = random.next(length);
        match random.next(8) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.next(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'.', b'(', b'R'][random.next(8)],
            3 => {
                let end = length.min(at + 8);
                let value = [u64::MAX, 1 << 63, 1 << 31, 0xffff_ffff, 0, 1][random.next(6)];
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            4 => {
                let end = length.min(at + 1 + random.next(32));
                bytes.drain(at..end);
            }
            5 => {
                let end = length.min(at + 1 + random.next(64));
                let copy = bytes[at..end].to_vec();
                let to = random.next(length);
                bytes.splice(to..to, copy);
            }
            6 if !other.is_empty() => {
                let start = random.next(other.len());
                let end = other.len().min(start + 1 + random.next(256));
                let to = random.next(length);
                bytes.splice(to..to, other[start..end].iter().copied());
            }
            _ => bytes.push(u8::try_from(random.next(256)).unwrap_or(0)),
        }
    }
    bytes
}

#[test]
fn no_mutation_of_a_fixture_makes_the_inspection_panic_or_hang() {
    let mut paths = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        &mut paths,
    );
    let originals: Vec<(String, Vec<u8>)> = paths
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut bytes = std::fs::read(path).expect("a fixture can be read");
            bytes.truncate(LARGEST_FILE);
            (name.into_owned(), bytes)
        })
        .collect();
    let limits = Limits {
        operations: 100_000,
        ..Limits::default()
    };
    let workers = 4;
    let cases: usize = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|worker| {
                let originals = &originals;
                let limits = &limits;
                scope.spawn(move || {
                    let mut cases = 0;
                    let mine = originals
                        .iter()
                        .enumerate()
                        .filter(|(index, _)| index % workers == worker);
                    for (index, (name, original)) in mine {
                        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (index as u64 + 1));
                        for _ in 0..ROUNDS {
                            let other = &originals[random.next(originals.len())].1;
                            let bytes = Bytes::from(mutate(original, other, &mut random));
                            let begun = Instant::now();
                            let file = BundleFile {
                                path: name,
                                source: &bytes,
                            };
                            inspect(&Bundle::new(vec![file]), limits);
                            let took = begun.elapsed();
                            assert!(took < Duration::from_secs(5), "`{name}` took {took:?}");
                            cases += 1;
                        }
                    }
                    cases
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().expect("no inspection panics"))
            .sum()
    });
    assert!(cases >= 20_000, "only {cases} cases were tried");
}
