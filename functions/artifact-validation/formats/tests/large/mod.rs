//! Large model files, laid out and not written: what is not given of them is zeros.
//!
//! Each is honest, and as large as it is asked to be; the stories of the whole registry use them too.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;

/// A file: its name, its size, and parts at their offsets, in order and with zeros between them.
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) size: u64,
    pub(crate) parts: Vec<(u64, Vec<u8>)>,
}

impl Layout {
    /// A file that begins with `start`, and has so many zeros after it.
    fn begins(name: &'static str, start: Vec<u8>, zeros: u64) -> Self {
        Self {
            name,
            size: start.len() as u64 + zeros,
            parts: vec![(0, start)],
        }
    }

    /// The same, with `end` behind the zeros.
    fn surrounds(name: &'static str, start: Vec<u8>, zeros: u64, end: Vec<u8>) -> Self {
        let at = start.len() as u64 + zeros;
        Self {
            name,
            size: at + end.len() as u64,
            parts: vec![(0, start), (at, end)],
        }
    }
}

/// Fills up with `filler` until the length, with `more` bytes before it, is a multiple of `unit`.
fn align(bytes: &mut Vec<u8>, more: usize, unit: usize, filler: u8) {
    while !(bytes.len() + more).is_multiple_of(unit) {
        bytes.push(filler);
    }
}

/// `count` tensors, `content` bytes together.
pub(crate) fn safetensors(content: u64, count: u64) -> Layout {
    let each = content / count;
    let tensors: Vec<String> = (0..count)
        .map(|index| {
            let start = index * each;
            format!(
                r#""layer.{index}":{{"dtype":"F32","shape":[{}],"data_offsets":[{start},{}]}}"#,
                each / 4,
                start + each
            )
        })
        .collect();
    let mut header = format!("{{{}}}", tensors.join(",")).into_bytes();
    align(&mut header, 0, 8, b' ');
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend_from_slice(&header);
    Layout::begins("model.safetensors", start, each * count)
}

/// A stored zip whose members may be longer than what is given of them.
#[derive(Default)]
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

    fn finish(mut self, name: &'static str) -> Layout {
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
        Layout {
            name,
            size,
            parts: self.parts,
        }
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

/// What `torch.save` writes of a state with `count` tensors, `content` bytes together.
pub(crate) fn torch(content: u64, count: u32) -> Layout {
    let each = content / u64::from(count);
    let elements = u32::try_from(each / 4).expect("small");
    let program = state_dict(count, elements);
    let mut zip = ZipBuilder::default();
    let crc32 = crc32fast::hash(&program);
    zip.add("archive/data.pkl", &program, program.len() as u64, crc32);
    zip.add(
        "archive/byteorder",
        b"little",
        6,
        crc32fast::hash(b"little"),
    );
    for index in 0..count {
        zip.add(&format!("archive/data/{index}"), b"", each, 0);
    }
    zip.add("archive/version", b"3\n", 2, crc32fast::hash(b"3\n"));
    zip.finish("model.pt")
}

/// One array of `content` bytes.
pub(crate) fn npy(content: u64) -> Layout {
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}",
        content / 4
    )
    .into_bytes();
    align(&mut header, 11, 64, b' ');
    header.push(b'\n');
    let mut start = b"\x93NUMPY\x01\0".to_vec();
    let length = u16::try_from(header.len()).expect("the header is short");
    start.extend_from_slice(&length.to_le_bytes());
    start.extend_from_slice(&header);
    Layout::begins("a.npy", start, content)
}

/// Sixteen tensors, `content` bytes together.
pub(crate) fn gguf(content: u64) -> Layout {
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
        start.extend_from_slice(&(content / 64).to_le_bytes());
        start.extend_from_slice(&0_u32.to_le_bytes());
        start.extend_from_slice(&(index * (content / 16)).to_le_bytes());
    }
    align(&mut start, 0, 32, 0);
    Layout::begins("m.gguf", start, content)
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

/// One initializer of `content` bytes, and a node that answers it.
pub(crate) fn onnx(content: u64) -> Layout {
    let value = |name: &str| {
        let shape = field(2, &field(1, &[8, 1, 0x12, 2, 10, 0]));
        [field(1, name.as_bytes()), shape].concat()
    };
    let node = [field(1, b"w"), field(2, b"y"), field(4, b"Identity")].concat();
    let dims = [vec![8], varint(content / 4)].concat();
    let head = [
        dims,
        vec![0x10, 1],
        field(8, b"w"),
        vec![0x4a],
        varint(content),
    ]
    .concat();
    let tensor = [vec![0x2a], varint(head.len() as u64 + content), head].concat();
    let before = [field(1, &node), field(2, b"g"), tensor].concat();
    let after = field(12, &value("y"));
    let graph_size = before.len() as u64 + content + after.len() as u64;
    let opset = field(8, &[0x10, 17]);
    let start = [vec![8, 8], opset, vec![0x3a], varint(graph_size), before].concat();
    Layout::surrounds("m.onnx", start, content, after)
}

/// A dictionary with one byte string of `content` bytes.
pub(crate) fn pickle(content: u64) -> Layout {
    let mut start = b"\x80\x04}\x8c\x07weights\x8e".to_vec();
    start.extend_from_slice(&content.to_le_bytes());
    Layout::surrounds("m.pkl", start, content, b"s.".to_vec())
}

/// Two arrays of 48 MiB, as h5py writes them.
///
/// The file beside this one holds the size, and then offset and bytes of whatever is not zero.
pub(crate) fn hdf5() -> Layout {
    let mut lines = include_str!("weights.h5.txt").lines();
    let number = |text: &str| text.parse().expect("a number");
    let size = number(lines.next().expect("the size"));
    let parts = lines
        .map(|line| {
            let (offset, digits) = line.split_once(' ').expect("offset and bytes");
            let bytes = (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits"))
                .collect();
            (number(offset), bytes)
        })
        .collect();
    Layout {
        name: "model.weights.h5",
        size,
        parts,
    }
}

/// A Keras model with these weights; `configuration` and `metadata` are those of any model.
pub(crate) fn keras(configuration: &[u8], metadata: &[u8]) -> Layout {
    let weights = hdf5();
    let mut zip = ZipBuilder::default();
    for (name, content) in [("metadata.json", metadata), ("config.json", configuration)] {
        zip.add(
            name,
            content,
            content.len() as u64,
            crc32fast::hash(content),
        );
    }
    zip.add(weights.name, b"", weights.size, 0);
    let start = zip.at - weights.size;
    let inner = weights
        .parts
        .into_iter()
        .map(|(at, part)| (start + at, part));
    zip.parts.extend(inner);
    zip.finish("model.keras")
}

/// A safetensors file of `content` bytes in an archive of POSIX.
pub(crate) fn tar(content: u64) -> Layout {
    let member = safetensors(content, 4);
    let mut header = vec![0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, "model/model.safetensors");
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", member.size));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    header[148..156].copy_from_slice(sum.as_bytes());
    header.extend_from_slice(&member.parts[0].1);
    let end = (512 + member.size).div_ceil(512) * 512 + 1024;
    let rest = end.div_ceil(10240) * 10240 - header.len() as u64;
    Layout::begins("model.tar", header, rest)
}

/// The same file, stored in a zip archive.
pub(crate) fn zip(content: u64) -> Layout {
    let member = safetensors(content, 4);
    let mut zip = ZipBuilder::default();
    let (_, start) = &member.parts[0];
    zip.add(member.name, start, member.size, 0);
    zip.finish("model.zip")
}

/// Bytes that no compression makes smaller.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// A list of so many integers, as Python's pickler writes it: in batches, each number an opcode of its own.
fn numbers(count: u32) -> Vec<u8> {
    let mut program = b"\x80\x02]q\x00".to_vec();
    for batch in (0..count).step_by(1000) {
        program.push(b'(');
        for number in batch..(batch + 1000).min(count) {
            program.push(b'J');
            program.extend_from_slice(&(number | 1 << 24).to_le_bytes());
        }
        program.push(b'e');
    }
    program.push(b'.');
    program
}

/// Files of about so many bytes of formats of which every byte must be read; real ones, made longer.
pub(crate) fn dense(size: usize) -> Vec<(&'static str, Vec<u8>)> {
    // Something that says nothing, behind the first `after`, again and again.
    let spread = |name: &'static str, bytes: &[u8], after: &str, filler: &str| {
        let mut bytes = bytes.to_vec();
        let at = bytes
            .windows(after.len())
            .position(|window| window == after.as_bytes())
            .expect("it occurs")
            + after.len();
        let count = (size - bytes.len()) / filler.len();
        bytes.splice(at..at, filler.repeat(count).into_bytes());
        (name, bytes)
    };
    let gzip = |bytes: &[u8]| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).expect("memory is written");
        gzip.finish().expect("memory is written")
    };
    let content = noise(size);
    let layout = tar(size as u64);
    let (_, start) = &layout.parts[0];
    let mut archive = [start.as_slice(), &content].concat();
    archive.resize(usize::try_from(layout.size).expect("small"), 0);
    let mut program = b"\x80\x04\x8e".to_vec();
    program.extend_from_slice(&(content.len() as u64).to_le_bytes());
    program.extend_from_slice(&content);
    program.push(b'.');
    vec![
        spread(
            "xgb.json",
            include_bytes!("../fixtures/benign/xgb.json"),
            "\"gradient_booster\":",
            " ",
        ),
        spread(
            "cat.json",
            include_bytes!("../fixtures/benign/cat.json"),
            "\"features_info\":",
            " ",
        ),
        spread(
            "tree.pmml",
            include_bytes!("../fixtures/benign/tree.pmml"),
            "description\">",
            "<Extension name=\"a\" value=\"b\"/>",
        ),
        (
            "numbers.pkl",
            numbers(u32::try_from(size / 5).expect("few")),
        ),
        ("noise.pkl.gz", gzip(&program)),
        ("model.tar.gz", gzip(&archive)),
    ]
}
