//! Plays many seeds, or one with all its steps, or shows that every condition is needed.

use anyhow::{Context as _, bail};
use clap::Parser;
use simulation::{Mutation, Options, Site, play};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

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
    /// Tells every step; for one seed.
    #[arg(long)]
    trace: bool,
    /// Removes one condition after another, and plays seeds until that is noticed.
    #[arg(long)]
    mutations: bool,
    /// With `--mutations`: plays only the seed that noticed each condition of this file, which is written if it is missing.
    #[arg(long)]
    known: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "it is a command")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = Options {
        wishes: arguments.operations,
        clients: arguments.clients,
        faults: arguments.faults,
        mutation: None,
        trace: arguments.trace,
    };
    if arguments.mutations {
        return show_mutations(&arguments, &options);
    }
    let started = Instant::now();
    let seeds = arguments.first..arguments.first + arguments.seeds;
    let totals = Totals::default();
    let failed = first_failure(seeds, &options, Some(&totals));
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
    options: &Options,
    totals: Option<&Totals>,
) -> Option<(u64, Vec<simulation::Violation>)> {
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Option<(u64, Vec<simulation::Violation>)>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
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
                    if let Some(totals) = totals {
                        totals.add(&played);
                    }
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

/// How many seeds are played to learn which conditions there are.
const SEEDS_OF_SITES: u64 = 60;

/// Removes each condition, and shows what noticed it.
#[expect(clippy::print_stdout, reason = "it is a command")]
fn show_mutations(arguments: &Arguments, options: &Options) -> anyhow::Result<()> {
    let known = match &arguments.known {
        Some(path) if path.exists() => known_sites(&std::fs::read_to_string(path)?)?,
        _ => BTreeMap::new(),
    };
    if !known.is_empty() {
        return replay(&known, options);
    }
    let sites = sites(arguments.first, SEEDS_OF_SITES, options);
    let mut lines = Vec::new();
    let mut unnoticed = 0;
    for site in &sites {
        let mutated = Options {
            mutation: Some(Mutation(site.clone())),
            ..options.clone()
        };
        let seeds = arguments.first..arguments.first + arguments.seeds;
        if let Some((seed, violations)) = first_failure(seeds, &mutated, None) {
            let first = violations
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            println!("noticed by seed {seed}: {site}\n    {first}");
            lines.push(format!("{seed}\t{site}\n"));
        } else {
            unnoticed += 1;
            println!("NOT NOTICED by {} seeds: {site}", arguments.seeds);
        }
    }
    println!(
        "{} conditions, {unnoticed} of them not noticed",
        sites.len()
    );
    if let Some(path) = &arguments.known {
        std::fs::write(path, lines.concat())?;
    }
    if unnoticed > 0 {
        bail!("a condition that nothing notices is not needed, or the simulation misses its case");
    }
    Ok(())
}

/// The conditions that writes carry in some seeds.
fn sites(first: u64, seeds: u64, options: &Options) -> BTreeSet<Site> {
    let sites: Mutex<BTreeSet<Site>> = Mutex::default();
    each(first..first + seeds, |seed| {
        let played = play(seed, options);
        if let Ok(mut sites) = sites.lock() {
            sites.extend(played.sites);
        }
    });
    sites.into_inner().unwrap_or_default()
}

/// Does something for each of many things, on all cores.
fn each<T: Send>(things: impl Iterator<Item = T> + Send, act: impl Fn(T) + Sync) {
    let things = Mutex::new(things);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = things.lock().ok().and_then(|mut things| things.next());
                    let Some(thing) = next else { return };
                    act(thing);
                }
            });
        }
    });
}

fn known_sites(text: &str) -> anyhow::Result<BTreeMap<Site, u64>> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (seed, site) = line.split_once('\t').context("a line has no seed")?;
            Ok((site.parse()?, seed.parse()?))
        })
        .collect()
}

/// Plays the seed that is known to notice each condition, with the condition and without it.
#[expect(clippy::print_stdout, reason = "it is a command")]
fn replay(known: &BTreeMap<Site, u64>, options: &Options) -> anyhow::Result<()> {
    let started = Instant::now();
    let problems: Mutex<Vec<String>> = Mutex::default();
    let unknown: Mutex<BTreeSet<Site>> = Mutex::default();
    let tell = |problem: String| {
        if let Ok(mut problems) = problems.lock() {
            problems.push(problem);
        }
    };
    let seeds: BTreeSet<u64> = known.values().copied().collect();
    each(seeds.iter(), |seed| {
        let played = play(*seed, options);
        for violation in played.violations {
            tell(format!("seed {seed} is not linearizable: {violation}"));
        }
        if let Ok(mut unknown) = unknown.lock() {
            unknown.extend(
                played
                    .sites
                    .into_iter()
                    .filter(|site| !known.contains_key(site)),
            );
        }
    });
    each(known.iter(), |(site, seed)| {
        let mutated = Options {
            mutation: Some(Mutation(site.clone())),
            ..options.clone()
        };
        if play(*seed, &mutated).violations.is_empty() {
            tell(format!("seed {seed} does not notice any more: {site}"));
        }
    });
    let problems = problems.into_inner().unwrap_or_default();
    for problem in &problems {
        println!("{problem}");
    }
    println!(
        "{} conditions, each removed and noticed by the seed that is known for it; of {} others no seed is known ({:.1} s)",
        known.len(),
        unknown.into_inner().map_or(0, |unknown| unknown.len()),
        started.elapsed().as_secs_f64()
    );
    if !problems.is_empty() {
        bail!("find the seeds anew: remove the file of `--known` and play the mutations");
    }
    Ok(())
}
