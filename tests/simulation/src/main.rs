//! Plays many seeds, or one with all its steps, or shows that every condition is needed.

use anyhow::bail;
use clap::Parser;
use simulation::{Mutation, Options, Site, play};
use std::collections::BTreeSet;
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

#[expect(clippy::print_stdout, reason = "it is a command")]
fn show_mutations(arguments: &Arguments, options: &Options) -> anyhow::Result<()> {
    let mut sites: BTreeSet<Site> = BTreeSet::new();
    for seed in arguments.first..arguments.first + 50 {
        sites.extend(play(seed, options).sites);
    }
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
        } else {
            unnoticed += 1;
            println!("NOT NOTICED by {} seeds: {site}", arguments.seeds);
        }
    }
    println!(
        "{} conditions, {unnoticed} of them not noticed",
        sites.len()
    );
    if unnoticed > 0 {
        bail!("a condition that nothing notices is not needed, or the simulation misses its case");
    }
    Ok(())
}
