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
fn an_array_of_a_gibibyte_is_judged_by_its_header() {
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}",
        GIB / 4
    );
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut start = b"\x93NUMPY\x01\0".to_vec();
    let length = u16::try_from(header.len()).expect("the header is short");
    start.extend_from_slice(&length.to_le_bytes());
    start.extend_from_slice(header.as_bytes());
    let source = Sparse::new(start.len() as u64 + GIB, vec![(0, start)]);
    judged_by_little("a.npy", &source, Verdict::Clean);
}

#[test]
fn a_gguf_of_a_gibibyte_is_judged_by_its_header() {
    let mut start = b"GGUF\x03\0\0\0".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    start.extend_from_slice(&16_u64.to_le_bytes());
    start.extend_from_slice(&1_u64.to_le_bytes());
    text(&mut start, "general.architecture");
    start.extend_from_slice(&8_u32.to_le_bytes());
    text(&mut start, "llama");
    for index in 0..16_u64 {
        text(&mut start, &format!("blk.{index}.ffn_up.weight"));
        start.extend_from_slice(&1_u32.to_le_bytes());
        start.extend_from_slice(&(GIB / 64).to_le_bytes());
        start.extend_from_slice(&0_u32.to_le_bytes());
        start.extend_from_slice(&(index * (GIB / 16)).to_le_bytes());
    }
    start.resize(start.len().div_ceil(32) * 32, 0);
    let source = Sparse::new(start.len() as u64 + GIB, vec![(0, start)]);
    judged_by_little("m.gguf", &source, Verdict::Clean);
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 127 {
        out.push(u8::try_from(value & 127).expect("seven bits") | 128);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
    out
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = varint(content.len() as u64);
    [&[(number << 3) | 2], length.as_slice(), content].concat()
}

#[test]
fn an_onnx_with_an_initializer_of_a_gibibyte_is_judged_by_what_surrounds_it() {
    let size = GIB - 4096;
    let value = |name: &str| {
        let shape = field(2, &field(1, &[8, 1, 0x12, 2, 10, 0]));
        [field(1, name.as_bytes()), shape].concat()
    };
    let node = [field(1, b"w"), field(2, b"y"), field(4, b"Identity")].concat();
    let dims = [vec![8], varint(size / 4)].concat();
    let head = [
        dims,
        vec![0x10, 1],
        field(8, b"w"),
        vec![0x4a],
        varint(size),
    ]
    .concat();
    let tensor = [vec![0x2a], varint(head.len() as u64 + size), head].concat();
    let before = [field(1, &node), field(2, b"g"), tensor].concat();
    let after = field(12, &value("y"));
    let graph_size = before.len() as u64 + size + after.len() as u64;
    let opset = field(8, &[0x10, 17]);
    let start = [vec![8, 8], opset, vec![0x3a], varint(graph_size), before].concat();
    let end = start.len() as u64 + size;
    let source = Sparse::new(end + after.len() as u64, vec![(0, start), (end, after)]);
    judged_by_little("m.onnx", &source, Verdict::Clean);
}

#[test]
fn a_pickle_with_an_array_of_a_gibibyte_is_judged_by_its_program() {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("short");
        [&[0x8c, length], text.as_bytes()].concat()
    };
    let mut start = b"\x80\x04}".to_vec();
    start.extend(text("weights"));
    start.push(0x8e);
    start.extend_from_slice(&GIB.to_le_bytes());
    let end = start.len() as u64 + GIB;
    let source = Sparse::new(end + 2, vec![(0, start), (end, b"s.".to_vec())]);
    judged_by_little("m.pkl", &source, Verdict::Clean);
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
