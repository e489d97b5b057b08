//! Runs every target for a while: `cargo run --release -- --seconds 60`.
//!
//! An input that makes a check panic, or that takes over 100 ms of a processor, is kept and fails the run.

use clap::Parser;
use model_formats_fuzz::{Dice, GROUPS, Group, judge, mutate, seeds};
use rustix::time::{ClockId, clock_gettime};
use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Feeds damaged model files to every parser.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets.
    #[arg(long = "target")]
    targets: Vec<String>,
    /// Where the random numbers begin; another number makes other inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many targets run at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Where inputs that fail are kept.
    #[arg(long, default_value = "failures")]
    keep: PathBuf,
}

const SLOW: Duration = Duration::from_millis(100);

struct Outcome {
    inputs: u64,
    slowest: Duration,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&Group> = GROUPS
        .iter()
        .filter(|group| {
            arguments.targets.is_empty() || arguments.targets.iter().any(|name| name == group.name)
        })
        .collect();
    let next = AtomicUsize::new(0);
    let (total, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(group) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(group, &arguments);
                    total.fetch_add(
                        usize::try_from(outcome.inputs).unwrap_or_default(),
                        Ordering::Relaxed,
                    );
                    failed.fetch_add(outcome.failures.len(), Ordering::Relaxed);
                    let mut out = std::io::stdout().lock();
                    let _ = writeln!(
                        out,
                        "{:<14} {:>9} inputs, slowest {:>5.1} ms, {} failures",
                        group.name,
                        outcome.inputs,
                        outcome.slowest.as_secs_f64() * 1000.0,
                        outcome.failures.len()
                    );
                    for failure in &outcome.failures {
                        let _ = writeln!(out, "    {failure}");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let _ = writeln!(
        std::io::stdout(),
        "{} inputs, {failed} failures",
        total.into_inner()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Time that this thread had of a processor: a busy machine makes no input slow.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

fn run(group: &Group, arguments: &Arguments) -> Outcome {
    let seeds = seeds(group);
    let mut outcome = Outcome {
        inputs: 0,
        slowest: Duration::ZERO,
        failures: Vec::new(),
    };
    if seeds.is_empty() {
        outcome.failures.push("has no seeds".to_owned());
        return outcome;
    }
    let mut dice = Dice::new(arguments.seed);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    while Instant::now() < end && outcome.failures.len() < 5 {
        let input = mutate(
            &seeds[dice.below(seeds.len())],
            &seeds,
            group.words,
            &mut dice,
        );
        let path = group.paths[dice.below(group.paths.len())];
        outcome.inputs += 1;
        let start = spent();
        let panicked = catch_unwind(|| judge(path, &input)).is_err();
        let took = spent().saturating_sub(start);
        outcome.slowest = outcome.slowest.max(took);
        if panicked || took > SLOW {
            let name = format!(
                "{}-{}-{}",
                group.name,
                outcome.failures.len(),
                path.replace('/', "_")
            );
            let kept = arguments.keep.join(name);
            let _ = std::fs::create_dir_all(&arguments.keep);
            let _ = std::fs::write(&kept, &input);
            let what = if panicked { "panics" } else { "is slow" };
            outcome.failures.push(format!("{} {what}", kept.display()));
        }
    }
    outcome
}
