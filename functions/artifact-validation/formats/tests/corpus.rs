//! The corpus gets the verdicts that its manifest asks for.
//!
//! A part of the corpus lies in `fixtures`, and is always tried; the whole is tried where it lies beside the checkout.

#![allow(
    clippy::print_stdout,
    reason = "the test says which corpus it has read"
)]

use bytes::Bytes;
use model_formats::{Bundle, BundleFile, Limits, Report, Verdict, inspect};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

struct Row {
    file: String,
    label: String,
    attack: String,
}

/// Reads one line of comma-separated values with quotes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(character);
                }
            }
        }
    }
    fields
}

fn manifest(folder: &Path) -> Vec<Row> {
    let text =
        std::fs::read_to_string(folder.join("manifest.csv")).expect("the manifest can be read");
    text.lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields = fields(line);
            Row {
                file: fields[0].clone(),
                label: fields[2].clone(),
                attack: fields[3].clone(),
            }
        })
        .collect()
}

fn collect(path: &Path, name: &str, files: &mut BTreeMap<String, Bytes>) {
    if path.is_file() {
        let bytes = std::fs::read(path).expect("the corpus can be read");
        files.insert(name.to_owned(), bytes.into());
        return;
    }
    for entry in std::fs::read_dir(path).expect("the corpus can be listed") {
        let entry = entry.expect("the corpus can be listed");
        let inner = entry.file_name().to_string_lossy().into_owned();
        let inner = if name.is_empty() {
            inner
        } else {
            format!("{name}/{inner}")
        };
        collect(&entry.path(), &inner, files);
    }
}

fn judge(path: &Path) -> Report {
    let mut files = BTreeMap::new();
    let name = if path.is_dir() {
        String::new()
    } else {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    collect(path, &name, &mut files);
    let files = files
        .iter()
        .map(|(path, source)| BundleFile { path, source })
        .collect();
    inspect(&Bundle::new(files), &Limits::default())
}

fn fits(label: &str, verdict: Verdict) -> bool {
    match label {
        "benign" => verdict == Verdict::Clean,
        "benign-code" => verdict == Verdict::ContainsCode,
        // A file that hides its payload by breaking its format is both.
        "malicious" => matches!(
            verdict,
            Verdict::Unsafe | Verdict::ContainsCode | Verdict::Malformed
        ),
        "malformed" => matches!(verdict, Verdict::Malformed | Verdict::Unsafe),
        _ => false,
    }
}

fn hold(folder: &Path) {
    let rows = manifest(folder);
    let mut wrong = Vec::new();
    for row in &rows {
        let report = judge(&folder.join(&row.file));
        if !fits(&row.label, report.verdict) {
            wrong.push(format!(
                "{} ({}, {}): {:?} {:?}",
                row.file, row.label, row.attack, report.verdict, report.findings
            ));
        }
    }
    println!("{} files of {}", rows.len(), folder.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The whole corpus, beside this repository.
fn whole() -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared/corpus"))
        .find(|folder| folder.join("manifest.csv").is_file())
}

#[test]
fn every_fixture_gets_the_verdict_of_its_label() {
    hold(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
}

#[test]
fn the_whole_corpus_gets_the_verdicts_of_its_labels_where_it_is_present() {
    match whole() {
        Some(folder) => hold(&folder),
        None => println!("the whole corpus is not beside this checkout"),
    }
}
