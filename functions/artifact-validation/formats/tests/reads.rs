//! Large files are judged by a few small reads.

mod large;

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Limits, ReadError, Report, Source, Verdict, inspect};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A file that is mostly zeros, and counts how it is read.
struct Sparse {
    size: u64,
    parts: Vec<(u64, Vec<u8>)>,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Sparse {
    fn new(size: u64, parts: Vec<(u64, Vec<u8>)>) -> Self {
        Self {
            size,
            parts,
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Source for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        assert!(range.start <= range.end && range.end <= self.size);
        let length = range.end - range.start;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let mut answer = vec![0; usize::try_from(length).expect("a test reads little")];
        for (start, part) in &self.parts {
            let from = range.start.max(*start);
            let to = range.end.min(start + part.len() as u64);
            if from < to {
                let source = &part[usize::try_from(from - start).expect("small")
                    ..usize::try_from(to - start).expect("small")];
                let at = usize::try_from(from - range.start).expect("small");
                answer[at..at + source.len()].copy_from_slice(source);
            }
        }
        Ok(answer.into())
    }
}

fn judge(path: &str, source: &Sparse) -> (Report, u64, u64) {
    let report = inspect(
        &Bundle::new(vec![BundleFile { path, source }]),
        &Limits::default(),
    );
    (
        report,
        source.reads.load(Ordering::Relaxed),
        source.bytes.load(Ordering::Relaxed),
    )
}

#[test]
fn files_of_a_gibibyte_are_judged_by_less_than_a_mebibyte() {
    for (layout, most_reads) in [
        (large::safetensors(GIB, 64), 8),
        (large::torch(GIB, 64), 100),
        (large::npy(GIB), 24),
        (large::gguf(GIB), 24),
        (large::onnx(GIB - 4096), 24),
        (large::pickle(GIB), 24),
        (large::hdf5(), 24),
        (large::keras(b"{}", b"{}"), 24),
        (large::tar(GIB), 24),
        (large::zip(GIB), 24),
    ] {
        let name = layout.name;
        let source = Sparse::new(layout.size, layout.parts);
        let (report, reads, bytes) = judge(name, &source);
        assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.findings);
        assert!(
            bytes <= MIB && reads <= most_reads,
            "{name}: {reads} reads of {bytes} bytes"
        );
        if name == "model.pt" {
            assert_eq!(report.files[0].facts["tensor_count"], 64);
        }
    }
}

/// A file that remembers which ranges of it were read.
struct Remembered {
    bytes: Bytes,
    ranges: Mutex<Vec<Range<u64>>>,
}

impl Source for Remembered {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.ranges.lock().expect("unharmed").push(range.clone());
        self.bytes.read(range)
    }
}

#[test]
fn what_must_be_read_whole_is_read_once() {
    for (name, bytes) in large::dense(9 << 20) {
        let source = Remembered {
            bytes: bytes.into(),
            ranges: Mutex::default(),
        };
        let report = inspect(
            &Bundle::new(vec![BundleFile {
                path: name,
                source: &source,
            }]),
            &Limits::default(),
        );
        assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.findings);
        let mut ranges = source.ranges.into_inner().expect("unharmed");
        let fetched: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut end = 0;
        for range in ranges {
            assert!(
                range.start <= end,
                "{name}: nothing is passed over at {end}"
            );
            end = end.max(range.end);
        }
        let size = source.bytes.len() as u64;
        assert_eq!(end, size, "{name} is read to its end");
        // Its ends told the format, and are small.
        assert!(
            fetched <= size + 129 * 1024,
            "{name}: {fetched} of {size} bytes"
        );
    }
}

#[test]
fn a_failed_read_leaves_the_inspection_incomplete() {
    struct Broken;
    impl Source for Broken {
        fn size(&self) -> u64 {
            100
        }
        fn read(&self, _: Range<u64>) -> Result<Bytes, ReadError> {
            Err(ReadError::Failed("the connection was lost".into()))
        }
    }
    let report = inspect(
        &Bundle::new(vec![BundleFile {
            path: "model.safetensors",
            source: &Broken,
        }]),
        &Limits::default(),
    );
    assert_eq!(report.verdict, Verdict::Incomplete);
}

/// Judges a large file, and holds what was read of it to a mebibyte.
#[track_caller]
fn judged_by_little(path: &str, source: &Sparse, verdict: Verdict) {
    let (report, reads, bytes) = judge(path, source);
    assert_eq!(report.verdict, verdict, "{:?}", report.findings);
    assert!(
        bytes <= MIB && reads <= 24,
        "{path}: {reads} reads of {bytes} bytes"
    );
}

#[test]
fn a_hundred_megabytes_that_a_header_claims_are_not_held() {
    // The header's end lies beyond the file: nothing but its beginning is read.
    let mut start = 99_000_000_u64.to_le_bytes().to_vec();
    start.extend_from_slice(b"{\"a\":");
    let source = Sparse::new(1000, vec![(0, start)]);
    judged_by_little("m.safetensors", &source, Verdict::Malformed);
    // Texts, arrays and tensors without end.
    for claim in [u64::MAX, 1 << 40, 1 << 31] {
        let mut start = b"GGUF\x03\0\0\0".to_vec();
        start.extend_from_slice(&claim.to_le_bytes());
        start.extend_from_slice(&claim.to_le_bytes());
        start.extend_from_slice(&claim.to_le_bytes());
        let source = Sparse::new(4096, vec![(0, start)]);
        judged_by_little("m.gguf", &source, Verdict::Malformed);
    }
}
