//! The command's address space is bounded while it judges large files and hostile headers.
//!
//! What the program itself takes is allowed beside the 32 MiB that an inspection may hold.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What the program takes by itself: its code, its stack, its tables, in KiB.
const OWN_KIB: u64 = 32 * 1024;

/// A file in a folder of its own: parts at their offsets, zeros between them.
fn file(name: &str, size: u64, parts: &[(u64, &[u8])]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory");
    std::fs::create_dir_all(&folder).expect("the folder is made");
    let path = folder.join(name);
    let mut file = File::create(&path).expect("the file is made");
    file.set_len(size).expect("the file is sparse");
    for (offset, bytes) in parts {
        file.seek(SeekFrom::Start(*offset))
            .expect("within the file");
        file.write_all(bytes).expect("the part is written");
    }
    path
}

/// Judges a file within the bound; the verdict is the last word of the first line.
fn judged(path: &Path) -> String {
    let limit = OWN_KIB + 32 * 1024;
    let output = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -v {limit} && exec \"$0\" --quiet \"$1\""),
        ])
        .arg(env!("CARGO_BIN_EXE_validate"))
        .arg(path)
        .output()
        .expect("the command runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "{}: {:?} {}",
        path.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    told.trim()
        .rsplit(": ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn safetensors_header(content: u64) -> Vec<u8> {
    let mut header =
        format!(r#"{{"w":{{"dtype":"U8","shape":[{content}],"data_offsets":[0,{content}]}}}}"#);
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    [
        (header.len() as u64).to_le_bytes().as_slice(),
        header.as_bytes(),
    ]
    .concat()
}

#[test]
fn memory_does_not_grow_with_files_nor_with_what_headers_claim() {
    let tensors = safetensors_header(GIB);
    let npy = {
        let mut header = format!(
            "{{'descr': '<f8', 'fortran_order': False, 'shape': ({},), }}",
            GIB / 8
        );
        while !(header.len() + 11).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).expect("short").to_le_bytes();
        [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes()].concat()
    };
    let claims = |claimed: u64| claimed.to_le_bytes();
    let gguf = [
        b"GGUF\x03\0\0\0".as_slice(),
        &claims(1 << 40),
        &claims(1 << 40),
    ]
    .concat();
    let bytes8 = [b"\x80\x04\x8e".as_slice(), &claims(GIB - 100)].concat();
    let text8 = [b"\x80\x04\x8d".as_slice(), &claims(GIB - 100)].concat();
    let frame = [b"\x80\x04\x95".as_slice(), &claims(u64::MAX)].concat();
    let onnx = [b"\x08\x07\x3a\xff\xff\xff\xff\x07".as_slice()].concat();
    let size = tensors.len() as u64 + GIB;
    let npy_size = npy.len() as u64 + GIB;
    for (name, size, start, verdict) in [
        ("a.safetensors", size, tensors.as_slice(), Some("clean")),
        ("a.npy", npy_size, npy.as_slice(), Some("clean")),
        ("claims.safetensors", GIB, claims(90 * MIB).as_slice(), None),
        (
            "claims-more.safetensors",
            GIB,
            claims(u64::MAX).as_slice(),
            None,
        ),
        ("a.gguf", GIB, gguf.as_slice(), None),
        ("bytes.pkl", GIB, bytes8.as_slice(), None),
        ("text.pkl", GIB, text8.as_slice(), None),
        ("frame.pkl", 64 * MIB, frame.as_slice(), None),
        ("a.onnx", GIB, onnx.as_slice(), None),
        ("a.h5", GIB, b"\x89HDF\r\n\x1a\n".as_slice(), None),
        ("a.keras", GIB, b"PK\x03\x04".as_slice(), None),
        ("a.tar", GIB, b"".as_slice(), None),
        (
            "a.xml",
            64 * MIB,
            b"<?xml version='1.0'?><PMML>".as_slice(),
            None,
        ),
        ("a.json", 64 * MIB, b"{\"learner\":[".as_slice(), None),
        ("a.bin", GIB, b"".as_slice(), Some("unsupported")),
    ] {
        let path = file(name, size, &[(0, start)]);
        let found = judged(&path);
        std::fs::remove_file(&path).expect("the file is removed");
        match verdict {
            Some(verdict) => assert_eq!(found, verdict, "{name}"),
            None => assert_ne!(found, "clean", "{name}"),
        }
    }
}
