//! Plays many seeds, or one with all its steps, or shows that every condition is needed.

use anyhow::bail;
use clap::Parser;
use simulation::conditions::{Elsewhere, Known};
use simulation::{Mutation, Options, hunt, play};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A run is mostly small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Plays concurrent clients and faults against the registry, and checks that it stayed linearizable.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// How many wishes of clients each plays.
    #[arg(long, default_value_t = 200)]
    operations: usize,
    /// How many processes serve them.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How often, in thousandths, something goes wrong with a call.
    #[arg(long, default_value_t = 60)]
    faults: u32,
    /// Leaves a part of a condition out, as a line of the file of `--known` names it after its seed.
    #[arg(long)]
    without: Option<String>,
    /// Tells every step; for one seed.
    #[arg(long)]
    trace: bool,
    /// How many threads play; by default one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Plays the seeds of this file, each with and without the parts of conditions that it is known to notice.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Looks for seeds that notice a missing part of a condition, and adds them to this file.
    #[arg(long)]
    hunt: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "it is a command")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let without = match &arguments.without {
        Some(line) => Known::parse(&format!("0\t{line}"))?.0.into_keys().next(),
        None => None,
    };
    let options = Options {
        wishes: arguments.operations,
        clients: arguments.clients,
        faults: arguments.faults,
        mutation: without.map(Mutation),
        surveys: false,
        trace: arguments.trace,
    };
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(2);
    if let Some(path) = &arguments.known {
        return replay(path, threads, &options);
    }
    if let Some(path) = &arguments.hunt {
        return search(path, &arguments, threads, &options);
    }
    let started = Instant::now();
    let seeds = arguments.first..arguments.first + arguments.seeds;
    let totals = Totals::default();
    let failed = first_failure(seeds, threads, &options, &totals);
    if let Some((seed, violations)) = failed {
        if arguments.trace {
            for line in play(seed, &options).trace {
                println!("{line}");
            }
        }
        for violation in violations {
            println!("{violation}");
        }
        bail!(
            "seed {seed} is not linearizable; play it alone with `--first {seed} --seeds 1 --trace`"
        );
    }
    if arguments.trace {
        for line in play(arguments.first, &options).trace {
            println!("{line}");
        }
    }
    println!(
        "{} seeds of {} operations, {} calls of the table, {} granted, {} refused, {} uncertain: linearizable ({:.1} s)",
        arguments.seeds,
        arguments.operations,
        totals.calls.load(Ordering::Relaxed),
        totals.granted.load(Ordering::Relaxed),
        totals.refused.load(Ordering::Relaxed),
        totals.uncertain.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64(),
    );
    Ok(())
}

#[derive(Debug, Default)]
struct Totals {
    calls: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    uncertain: AtomicU64,
}

impl Totals {
    fn add(&self, played: &simulation::Played) {
        self.calls.fetch_add(played.calls, Ordering::Relaxed);
        for asked in &played.asked {
            let counter = match &asked.answer {
                Some(answer) if answer.status < 300 => &self.granted,
                Some(answer) if answer.is_certain() => &self.refused,
                _ => &self.uncertain,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The first seed that shows a violation, played on all cores.
fn first_failure(
    seeds: std::ops::Range<u64>,
    threads: usize,
    options: &Options,
    totals: &Totals,
) -> Option<(u64, Vec<simulation::Violation>)> {
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Option<(u64, Vec<simulation::Violation>)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = failed.lock().is_ok_and(|failed| {
                        failed.as_ref().is_some_and(|(first, _)| *first < seed)
                    });
                    if seed >= seeds.end || is_over {
                        return;
                    }
                    let played = play(seed, options);
                    totals.add(&played);
                    if !played.violations.is_empty()
                        && let Ok(mut failed) = failed.lock()
                        && failed.as_ref().is_none_or(|(first, _)| seed < *first)
                    {
                        *failed = Some((seed, played.violations));
                    }
                }
            });
        }
    });
    failed.into_inner().ok().flatten()
}

/// Looks for seeds that notice what no seed of the file is known to notice.
#[expect(clippy::print_stdout, reason = "it is a command")]
fn search(
    path: &Path,
    arguments: &Arguments,
    threads: usize,
    options: &Options,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut known = if path.exists() {
        Known::parse(&std::fs::read_to_string(path)?)?
    } else {
        Known::default()
    };
    known
        .0
        .retain(|sites, seed| hunt::noticed(*seed, sites, options).is_some());
    let seeds = arguments.first..arguments.first + arguments.seeds;
    let surveyed = hunt::survey(seeds, threads, options);
    if let Some(seed) = surveyed.broken.first() {
        bail!("seed {seed} is not linearizable; play it alone with `--first {seed} --seeds 1`");
    }
    let found = hunt::hunt(&surveyed, known, threads, options);
    for (sites, reason) in &found.reasons {
        let sites: Vec<String> = sites.iter().map(ToString::to_string).collect();
        println!("noticed: {}\n    {reason}", sites.join("\n     and "));
    }
    for (site, tried) in &found.unknown {
        println!("NOT NOTICED: {site}\n    {tried}");
    }
    println!(
        "{} parts of conditions, {} of them not noticed ({:.1} s)",
        surveyed.sites.len(),
        found.unknown.len(),
        started.elapsed().as_secs_f64()
    );
    std::fs::write(path, found.known.lines())?;
    if !found.unknown.is_empty() {
        bail!("a condition that nothing notices is not needed, or the simulation misses its case");
    }
    Ok(())
}

/// Plays the seeds that are known to notice something.
#[expect(clippy::print_stdout, reason = "it is a command")]
fn replay(path: &Path, threads: usize, options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let known = Known::parse(&std::fs::read_to_string(path)?)?;
    let beside = path.with_file_name("elsewhere.tsv");
    let elsewhere = Elsewhere::parse(&std::fs::read_to_string(beside)?)?;
    let mut replayed = hunt::replay(&known, threads, options);
    replayed
        .unknown
        .retain(|site| !elsewhere.0.contains_key(site));
    for problem in &replayed.problems {
        println!("{problem}");
    }
    for site in &replayed.unknown {
        println!("nothing is known of: {site}");
    }
    println!(
        "{} parts of conditions, each removed and noticed; {} more stand elsewhere, {} of them open ({:.1} s)",
        known.sites().len(),
        elsewhere.0.len(),
        elsewhere.0.values().filter(|says| *says == "open").count(),
        started.elapsed().as_secs_f64()
    );
    if !replayed.problems.is_empty() {
        bail!("find the seeds anew: `--hunt {}`", path.display());
    }
    if !replayed.unknown.is_empty() {
        bail!("say what shows them; see `docs/consistency.md`");
    }
    Ok(())
}
