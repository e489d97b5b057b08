//! Looks for seeds that notice a missing condition, and plays those that are known to.
//!
//! A run without some part of a condition goes as the run with it until a write is refused for that part alone. So the
//! seeds are played once as they are, to learn what refused something in each; and a part is left out only in seeds where
//! that makes a difference. A part that never refuses alone is left out together with those that refuse with it.

use crate::conditions::Known;
use crate::mutation::{Mutation, Site};
use crate::parallel::each;
use crate::play::{Options, play};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most seeds in which the same parts are left out.
const MOST_TRIALS: usize = 300;

/// What refused something, and in which seeds.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every part of every condition that some write carried.
    pub sites: BTreeSet<Site>,
    /// The parts that refused something together, and no others, with the seeds in which they did.
    pub blamed: BTreeMap<BTreeSet<Site>, Vec<u64>>,
    /// Seeds that are not linearizable as they are, so that they show nothing.
    pub broken: BTreeSet<u64>,
}

/// What is known, and what is not.
#[derive(Debug, Default)]
pub struct Found {
    /// Parts, with seeds that notice.
    pub known: Known,
    /// Why a seed noticed, by the parts.
    pub reasons: BTreeMap<Vec<Site>, String>,
    /// Parts that no seed notices, with what was tried.
    pub unknown: BTreeMap<Site, String>,
}

/// Plays seeds as they are.
pub fn survey(seeds: Range<u64>, threads: usize, options: &Options) -> Survey {
    let surveyed: Mutex<Survey> = Mutex::default();
    let options = Options {
        surveys: true,
        mutation: None,
        ..options.clone()
    };
    each(threads, seeds, |seed| {
        let played = play(seed, &options);
        let Ok(mut surveyed) = surveyed.lock() else {
            return;
        };
        surveyed.sites.extend(played.sites);
        if !played.violations.is_empty() {
            surveyed.broken.insert(seed);
            return;
        }
        for blamed in played.blamed {
            surveyed.blamed.entry(blamed).or_default().push(seed);
        }
    });
    let mut surveyed = surveyed.into_inner().unwrap_or_default();
    for seeds in surveyed.blamed.values_mut() {
        seeds.sort_unstable();
    }
    surveyed
}

/// What a seed notices without some parts, if it notices anything.
pub fn noticed(seed: u64, sites: &[Site], options: &Options) -> Option<String> {
    let mutated = Options {
        mutation: Some(Mutation(sites.to_vec())),
        ..options.clone()
    };
    let violations = play(seed, &mutated).violations;
    violations.first().map(ToString::to_string)
}

/// Looks for a seed for each part for which none is known.
pub fn hunt(survey: &Survey, known: Known, threads: usize, options: &Options) -> Found {
    let found = Mutex::new(Found {
        known,
        ..Found::default()
    });
    let of = |found: &Mutex<Found>| -> BTreeSet<Site> {
        found.lock().map_or_else(
            |_| BTreeSet::new(),
            |found| found.known.sites().into_iter().cloned().collect(),
        )
    };
    let seeds_of = |sites: &BTreeSet<Site>| survey.blamed.get(sites).cloned().unwrap_or_default();
    let try_out = |sites: Vec<Site>, seeds: &[u64]| -> bool {
        let hit = seeds
            .iter()
            .take(MOST_TRIALS)
            .find_map(|seed| noticed(*seed, &sites, options).map(|reason| (*seed, reason)));
        let (Some((seed, reason)), Ok(mut found)) = (hit, found.lock()) else {
            return false;
        };
        found.known.0.insert(sites.clone(), seed);
        found.reasons.insert(sites, reason);
        true
    };
    let done = of(&found);
    each(
        threads,
        survey.sites.iter().filter(|site| !done.contains(site)),
        |site| {
            let alone = BTreeSet::from([site.clone()]);
            try_out(vec![site.clone()], &seeds_of(&alone));
        },
    );
    let done = of(&found);
    let tried = AtomicUsize::new(0);
    each(
        threads,
        survey.sites.iter().filter(|site| !done.contains(site)),
        |site| {
            let mut together: Vec<(&BTreeSet<Site>, &Vec<u64>)> = survey
                .blamed
                .iter()
                .filter(|(sites, _)| sites.len() > 1 && sites.contains(site))
                .collect();
            together.sort_by_key(|(sites, seeds)| (sites.len(), usize::MAX - seeds.len()));
            let is_known = together.iter().take(12).any(|(sites, seeds)| {
                tried.fetch_add(1, Ordering::Relaxed);
                try_out(
                    sites.iter().cloned().collect(),
                    &seeds[..seeds.len().min(20)],
                )
            });
            if !is_known {
                let seeds = seeds_of(&BTreeSet::from([site.clone()]));
                let (alone, examples) = (seeds.len(), &seeds[..seeds.len().min(3)]);
                let with: Vec<String> = together
                    .iter()
                    .take(4)
                    .map(|(sites, seeds)| {
                        let example = seeds.first().copied().unwrap_or_default();
                        let others: Vec<String> = sites
                            .iter()
                            .filter(|other| *other != site)
                            .map(|other| format!("{} [{}]", other.write, other.part))
                            .collect();
                        format!(
                            "in {} seeds, such as {example}, with {}",
                            seeds.len(),
                            others.join(", ")
                        )
                    })
                    .collect();
                if let Ok(mut found) = found.lock() {
                    let tried = format!(
                        "refused alone in {alone} seeds, such as {examples:?}; {}",
                        with.join("; ")
                    );
                    found.unknown.insert(site.clone(), tried);
                }
            }
        },
    );
    found.into_inner().unwrap_or_default()
}

/// What came of playing what is known.
#[derive(Debug, Default)]
pub struct Replayed {
    /// What should not be so.
    pub problems: Vec<String>,
    /// Parts that the seeds carried and of which nothing is known.
    pub unknown: BTreeSet<Site>,
}

/// Plays the seeds that are known to notice, with the parts and without them.
pub fn replay(known: &Known, threads: usize, options: &Options) -> Replayed {
    let replayed: Mutex<Replayed> = Mutex::default();
    let tell = |problem: String| {
        if let Ok(mut replayed) = replayed.lock() {
            replayed.problems.push(problem);
        }
    };
    let surveying = Options {
        surveys: true,
        ..options.clone()
    };
    let sites = known.sites();
    let seeds: BTreeSet<u64> = known.0.values().copied().collect();
    each(threads, seeds.iter(), |seed| {
        let played = play(*seed, &surveying);
        for violation in played.violations {
            tell(format!("seed {seed} is not linearizable: {violation}"));
        }
        if let Ok(mut replayed) = replayed.lock() {
            let unknown = played
                .sites
                .into_iter()
                .filter(|site| !sites.contains(site));
            replayed.unknown.extend(unknown);
        }
    });
    each(threads, known.0.iter(), |(sites, seed)| {
        if noticed(*seed, sites, options).is_none() {
            let sites: Vec<String> = sites.iter().map(ToString::to_string).collect();
            tell(format!(
                "seed {seed} does not notice any more: {}",
                sites.join(" and ")
            ));
        }
    });
    replayed.into_inner().unwrap_or_default()
}
