//! The command `validate`: what it prints, and with which code it ends.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn validate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_validate"))
        .args(arguments)
        .output()
        .expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn people_are_told_what_was_found_and_scripts_by_the_code() {
    let clean = fixture("benign/torch.safetensors");
    let refused = fixture("malicious/op_reduce_p2.pkl");
    let (clean, refused) = (clean.display().to_string(), refused.display().to_string());
    let output = validate(&[&clean]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with(&format!("{clean}: clean\n")));
    let output = validate(&[&clean, &refused]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    assert!(told.contains("op_reduce_p2.pkl at byte "), "{told}");
    assert!(told.contains("pickle.global-not-allowed"), "{told}");
    assert!(told.ends_with("2 paths: 1 clean, 1 unsafe\n"), "{told}");
    let output = validate(&["--quiet", &clean, &refused]);
    assert_eq!(text(&output.stdout).lines().count(), 2);
    let output = validate(&[&clean, "/there/is/no/such/file"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/there/is/no/such/file"));
    assert_eq!(validate(&[]).status.code(), Some(2));
}

#[test]
fn programs_get_one_report_a_line_with_why_and_fix() {
    let clean = fixture("benign/mlflow_xgb").display().to_string();
    let refused = fixture("malicious/op_reduce_p2.pkl").display().to_string();
    let output = validate(&["--json", &clean, &refused]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert_eq!(lines[0]["report"]["verdict"], "clean");
    assert_eq!(lines[0]["path"], clean.as_str());
    let finding = &lines[1]["report"]["findings"][0];
    for key in ["rule", "path", "detail", "verdict", "why", "fix"] {
        assert!(finding[key].is_string(), "{key}: {finding}");
    }
    assert!(finding["offset_bytes"].is_u64(), "{finding}");
}

#[test]
fn code_passes_when_it_is_approved_and_parts_may_be_required() {
    let code = fixture("malicious/mlflow_pyfunc_code")
        .display()
        .to_string();
    assert_eq!(validate(&[&code]).status.code(), Some(1));
    assert_eq!(validate(&["--approve-code", &code]).status.code(), Some(0));
    let bare = fixture("benign/torch.safetensors").display().to_string();
    let output = validate(&["--require", "licence,signature", &bare]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("completeness.licence"));
}

#[test]
fn progress_is_told_within_one_long_file() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("long.pkl");
    // Every byte of it is an opcode that is followed.
    let mut program = b"\x80\x02]q\x00".to_vec();
    for _ in 0..30_000 {
        program.push(b'(');
        for number in 0..200_u8 {
            program.extend_from_slice(&[b'K', number]);
        }
        program.push(b'e');
    }
    program.push(b'.');
    std::fs::write(&path, program).expect("the file is written");
    let output = validate(&["--progress", &path.display().to_string()]);
    std::fs::remove_file(&path).expect("the file is removed");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let told = text(&output.stderr);
    assert!(
        told.contains("[1/1]") && told.contains("MB of 12.0 MB"),
        "{told}"
    );
}
