//! Large files are judged by a few small reads.

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Limits, ReadError, Report, Source, Verdict, inspect};
use std::ops::Range;
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
fn a_safetensors_file_of_a_gibibyte_is_judged_by_less_than_a_mebibyte() {
    let tensors: Vec<String> = (0..64)
        .map(|index| {
            let start = index * (GIB / 64);
            format!(
                r#""layer.{index}":{{"dtype":"F32","shape":[{}],"data_offsets":[{start},{}]}}"#,
                GIB / 64 / 4,
                start + GIB / 64
            )
        })
        .collect();
    let mut header = format!("{{{}}}", tensors.join(","));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend_from_slice(header.as_bytes());
    let source = Sparse::new(start.len() as u64 + GIB, vec![(0, start)]);
    let (report, reads, bytes) = judge("model.safetensors", &source);
    assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.findings);
    assert!(bytes <= MIB && reads <= 8, "{reads} reads of {bytes} bytes");
}

/// A stored zip whose members may be longer than what is given of them.
struct ZipBuilder {
    parts: Vec<(u64, Vec<u8>)>,
    table: Vec<u8>,
    at: u64,
    count: u16,
}

impl ZipBuilder {
    fn add(&mut self, name: &str, content: &[u8], size: u64, crc32: u32) {
        let size = u32::try_from(size).expect("members are smaller than 4 GiB");
        let length = u16::try_from(name.len()).expect("names are short");
        let common = |out: &mut Vec<u8>| {
            out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&crc32.to_le_bytes());
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&[0, 0]);
        };
        let mut header = b"PK\x03\x04\x00\x00".to_vec();
        common(&mut header);
        header.extend_from_slice(name.as_bytes());
        self.table.extend_from_slice(b"PK\x01\x02\x00\x00\x00\x00");
        common(&mut self.table);
        self.table.extend_from_slice(&[0; 10]);
        self.table.extend_from_slice(
            &u32::try_from(self.at)
                .expect("less than 4 GiB")
                .to_le_bytes(),
        );
        self.table.extend_from_slice(name.as_bytes());
        header.extend_from_slice(content);
        let used = header.len() as u64 - content.len() as u64 + u64::from(size);
        self.parts.push((self.at, header));
        self.at += used;
        self.count += 1;
    }

    fn finish(mut self) -> Sparse {
        let mut end = std::mem::take(&mut self.table);
        let length = u32::try_from(end.len()).expect("the table is small");
        end.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00");
        end.extend_from_slice(&self.count.to_le_bytes());
        end.extend_from_slice(&self.count.to_le_bytes());
        end.extend_from_slice(&length.to_le_bytes());
        end.extend_from_slice(
            &u32::try_from(self.at)
                .expect("less than 4 GiB")
                .to_le_bytes(),
        );
        end.extend_from_slice(&[0, 0]);
        let size = self.at + end.len() as u64;
        self.parts.push((self.at, end));
        Sparse::new(size, self.parts)
    }
}

/// The state of a model with `count` tensors of `elements` numbers each, as `torch.save` writes it.
fn state_dict(count: u32, elements: u32) -> Vec<u8> {
    let mut program = b"\x80\x02}q\x00(".to_vec();
    let mut memo = 1_u32;
    let put = |program: &mut Vec<u8>, memo: &mut u32| {
        program.push(b'r');
        program.extend_from_slice(&memo.to_le_bytes());
        *memo += 1;
    };
    let text = |program: &mut Vec<u8>, text: &str| {
        program.push(b'X');
        program.extend_from_slice(&u32::try_from(text.len()).expect("short").to_le_bytes());
        program.extend_from_slice(text.as_bytes());
    };
    for index in 0..count {
        text(&mut program, &format!("layer.{index}.weight"));
        put(&mut program, &mut memo);
        program.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut program, "storage");
        program.extend_from_slice(b"ctorch\nFloatStorage\n");
        text(&mut program, &index.to_string());
        text(&mut program, "cpu");
        program.push(b'J');
        program.extend_from_slice(&elements.to_le_bytes());
        program.extend_from_slice(b"tQK\x00J");
        program.extend_from_slice(&elements.to_le_bytes());
        program.extend_from_slice(b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR");
    }
    program.extend_from_slice(b"u.");
    program
}

#[test]
fn a_pytorch_file_of_a_gibibyte_is_judged_by_less_than_a_mebibyte() {
    let count = 64;
    let elements = u32::try_from(GIB / 64 / 4).expect("small");
    let program = state_dict(count, elements);
    let mut zip = ZipBuilder {
        parts: Vec::new(),
        table: Vec::new(),
        at: 0,
        count: 0,
    };
    let crc32 = crc32fast::hash(&program);
    zip.add("archive/data.pkl", &program, program.len() as u64, crc32);
    zip.add(
        "archive/byteorder",
        b"little",
        6,
        crc32fast::hash(b"little"),
    );
    for index in 0..count {
        zip.add(&format!("archive/data/{index}"), b"", GIB / 64, 0);
    }
    zip.add("archive/version", b"3\n", 2, crc32fast::hash(b"3\n"));
    let source = zip.finish();
    let (report, reads, bytes) = judge("model.pt", &source);
    assert_eq!(report.verdict, Verdict::Clean, "{:?}", report.findings);
    assert_eq!(report.files[0].facts["tensor_count"], 64);
    assert!(
        bytes <= MIB && reads <= 100,
        "{reads} reads of {bytes} bytes"
    );
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
