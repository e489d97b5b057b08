//! Validates model files on the local disk: `validate PATH… [--json]`.
//!
//! Exit codes: 0 when every path is clean, 1 when one is refused, 2 when a path cannot be read or the command is wrong.

use bytes::Bytes;
use clap::Parser;
use model_formats::environment::Advisories;
use model_formats::policy::Part;
use model_formats::{
    Bundle, BundleFile, Limits, Policy, ReadError, Report, Source, Verdict, inspect, rules,
};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);

/// Validates model files without executing anything in them.
#[derive(Debug, Parser)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[command(name = "validate", version)]
struct Arguments {
    /// Files, or directories that hold one model each.
    #[arg(required_unless_present = "rules")]
    paths: Vec<PathBuf>,
    /// Print the table of all rules.
    #[arg(long)]
    rules: bool,
    /// Answer with JSON, one report per line.
    #[arg(long)]
    json: bool,
    /// Only the verdict of each path.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Tell on standard error how far it is, also where that is no terminal.
    #[arg(long)]
    progress: bool,
    /// The policy of a registry, as JSON; what it accepts passes.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Names that pickles may import besides those of the built-in list, one `<use> <module> <name>…` a line.
    #[arg(long, value_name = "FILE")]
    allow_list: Option<PathBuf>,
    /// Known vulnerabilities in OSV format, as a list of records or an object with `vulns`.
    #[arg(long, value_name = "FILE")]
    advisories: Option<PathBuf>,
    /// What each model must bring along.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    require: Vec<Required>,
    /// Accept models that carry their author's code.
    #[arg(long)]
    approve_code: bool,
}

/// What a model may be required to bring along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Required {
    Signature,
    InputExample,
    Environment,
    Licence,
    ModelCard,
}

/// A file on the disk, read by ranges.
struct LocalFile {
    file: File,
    size: u64,
    /// Bytes that were read of all files of the model.
    read: Arc<AtomicU64>,
}

impl LocalFile {
    fn open(path: &Path, read: &Arc<AtomicU64>) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let read = Arc::clone(read);
        Ok(Self { file, size, read })
    }
}

impl Source for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        let length = range
            .end
            .checked_sub(range.start)
            .filter(|_| range.end <= self.size)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(ReadError::OutOfRange {
                start: range.start,
                end: range.end,
                size: self.size,
            })?;
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, range.start)
            .map_err(|error| ReadError::Failed(error.to_string()))?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(bytes.into())
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nowhere to tell it if this fails too.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<bool> {
    if arguments.rules {
        write!(std::io::stdout(), "{}", rules::table())?;
        return Ok(true);
    }
    let policy = policy_of(arguments)?;
    let advisories = match &arguments.advisories {
        Some(path) => {
            let read = Advisories::from_json(&read(path)?).map_err(|error| about(path, error))?;
            Some(Arc::new(read))
        }
        None => None,
    };
    let limits = policy.limits(advisories).map_err(std::io::Error::other)?;
    let mut all_clean = true;
    let mut verdicts = Vec::new();
    let shows_progress = arguments.progress || std::io::stderr().is_terminal();
    let count = arguments.paths.len();
    for (index, path) in arguments.paths.iter().enumerate() {
        let about = |error: std::io::Error| about(path, error);
        let read = Arc::default();
        let files = files_of(path, &read).map_err(about)?;
        let progress = shows_progress.then(|| {
            let size = files.iter().map(|(_, file)| file.size).sum();
            let place = format!("[{}/{count}] {}", index + 1, path.display());
            Progress::show(place, size, read)
        });
        let bundle = files
            .iter()
            .map(|(path, source)| BundleFile { path, source })
            .collect();
        let report = inspect(&Bundle::new(bundle), &limits);
        drop(progress);
        // Without a policy, only what is clean passes on the command line.
        let accepts = arguments.policy.is_some() && policy.accepts(report.verdict);
        all_clean &= accepts
            || report.verdict == Verdict::Clean
            || (arguments.approve_code && report.verdict == Verdict::ContainsCode);
        verdicts.push(report.verdict);
        let mut out = std::io::stdout().lock();
        if arguments.json {
            writeln!(out, "{}", as_json(path, &report, &limits))?;
        } else {
            print(&mut out, path, &report, arguments.quiet)?;
        }
    }
    if count > 1 && !arguments.json && !arguments.quiet {
        summarize(&verdicts)?;
    }
    Ok(all_clean)
}

/// Tells on standard error how much was read, until it is dropped.
struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    fn show(place: String, size: u64, read: Arc<AtomicU64>) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut err = std::io::stderr();
            let mut has_shown = false;
            while stopped.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
                has_shown = true;
                // Nowhere to tell it if this fails.
                let _ = write!(
                    err,
                    "\r\x1b[K{place}: read {} of {}",
                    amount(read.load(Ordering::Relaxed)),
                    amount(size)
                );
            }
            if has_shown {
                let _ = write!(err, "\r\x1b[K");
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has only to end.
            let _ = thread.join();
        }
    }
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    for (name, unit) in units {
        if bytes >= unit {
            return format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit);
        }
    }
    format!("{bytes} bytes")
}

/// How many paths got which verdict.
fn summarize(verdicts: &[Verdict]) -> std::io::Result<()> {
    let mut sorted = verdicts.to_vec();
    sorted.sort_unstable();
    let told: Vec<String> = sorted
        .chunk_by(|left, right| left == right)
        .map(|chunk| format!("{} {}", chunk.len(), word(chunk[0])))
        .collect();
    writeln!(
        std::io::stdout(),
        "{} paths: {}",
        verdicts.len(),
        told.join(", ")
    )
}

/// A report with what its rules say of each finding.
fn as_json(path: &Path, report: &Report, limits: &Limits) -> Value {
    let mut report = json!(report);
    for finding in report["findings"].as_array_mut().into_iter().flatten() {
        let Some(rule) = finding["rule"].as_str().and_then(rules::find) else {
            continue;
        };
        finding["verdict"] = limits.verdict_of(rule).word().into();
        finding["why"] = rule.why.into();
        finding["fix"] = rule.fix.into();
    }
    json!({"path": path.display().to_string(), "report": report})
}

/// The policy of the file, with what the other options add to it.
fn policy_of(arguments: &Arguments) -> std::io::Result<Policy> {
    let mut policy = match &arguments.policy {
        Some(path) => serde_json::from_slice(&read(path)?).map_err(|error| about(path, error))?,
        None => Policy::default(),
    };
    if let Some(path) = &arguments.allow_list {
        let lines = String::from_utf8(read(path)?).map_err(|error| about(path, error))?;
        policy.allow_list.extend(lines.lines().map(str::to_owned));
    }
    policy
        .required
        .extend(arguments.require.iter().map(|required| match required {
            Required::Signature => Part::Signature,
            Required::InputExample => Part::InputExample,
            Required::Environment => Part::EnvironmentFiles,
            Required::Licence => Part::Licence,
            Required::ModelCard => Part::ModelCard,
        }));
    Ok(policy)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| about(path, error))
}

/// An error that names the file that it is about.
fn about(path: &Path, error: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(format!("{}: {error}", path.display()))
}

/// The files of one model, by their paths within it.
fn files_of(path: &Path, read: &Arc<AtomicU64>) -> std::io::Result<Vec<(String, LocalFile)>> {
    let mut found = Vec::new();
    if std::fs::metadata(path)?.is_dir() {
        collect(path, "", read, &mut found)?;
    } else {
        let name = path.file_name().map_or_else(
            || "model".into(),
            |name| name.to_string_lossy().into_owned(),
        );
        found.push((name, LocalFile::open(path, read)?));
    }
    Ok(found)
}

fn collect(
    folder: &Path,
    prefix: &str,
    read: &Arc<AtomicU64>,
    found: &mut Vec<(String, LocalFile)>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // Links are followed to files, but not to directories, which could lead in a circle.
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), read, found)?;
        } else {
            found.push((name, LocalFile::open(&entry.path(), read)?));
        }
    }
    Ok(())
}

fn print(
    out: &mut impl std::io::Write,
    path: &Path,
    report: &Report,
    quiet: bool,
) -> std::io::Result<()> {
    writeln!(out, "{}: {}", path.display(), word(report.verdict))?;
    if quiet {
        return Ok(());
    }
    for file in &report.files {
        writeln!(
            out,
            "  {} · {} · {}",
            file.path,
            file.format,
            word(file.verdict)
        )?;
    }
    for finding in &report.findings {
        let place = finding
            .offset_bytes
            .map_or_else(String::new, |offset| format!(" at byte {offset}"));
        writeln!(out, "  ✗ {}{place}: {}", finding.path, finding.detail)?;
        if let Some(rule) = rules::find(&finding.rule) {
            writeln!(out, "    {} · {} {}", rule.id, rule.why, rule.fix)?;
        }
    }
    Ok(())
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::ContainsCode => "contains code",
        Verdict::Unsupported => "unsupported",
        Verdict::Incomplete => "incomplete",
        Verdict::Malformed => "malformed",
        Verdict::Unsafe => "unsafe",
    }
}
