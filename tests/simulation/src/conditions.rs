//! Which conditions are known to be needed, as a file keeps it.
//!
//! A line has a seed and one or more sites: without the parts of all of them together, that seed is not linearizable.
//! Where a line has more than one, each of its parts stands in for the others, so that none of them is noticed alone.

use crate::mutation::Site;
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr as _;

/// Parts that were left out together, and the seed that noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known(pub BTreeMap<Vec<Site>, u64>);

/// How many fields a site has.
const FIELDS: usize = 3;

impl Known {
    /// Reads the lines of a file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| {
                let (seed, sites) = line.split_once('\t').context("a line has no seed")?;
                let fields: Vec<&str> = sites.split('\t').collect();
                let sites = fields
                    .chunks(FIELDS)
                    .map(|fields| Site::from_str(&fields.join("\t")))
                    .collect::<anyhow::Result<Vec<_>>>()?;
                Ok((sites, seed.parse()?))
            })
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }

    /// The lines of the file.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (sites, seed) in &self.0 {
            let sites: Vec<String> = sites.iter().map(ToString::to_string).collect();
            // Writing to a string cannot fail.
            writeln!(text, "{seed}\t{}", sites.join("\t")).ok();
        }
        text
    }

    /// Every site that is in a line.
    pub fn sites(&self) -> BTreeSet<&Site> {
        self.0.keys().flatten().collect()
    }
}

/// Parts of conditions that the simulation does not carry, or cannot show, each with what shows it, or why nothing can.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere(pub BTreeMap<Site, String>);

impl Elsewhere {
    /// Reads the lines of a file: what shows a part, and the part.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| {
                let (story, site) = line.split_once('\t').context("a line has no story")?;
                Ok((site.parse()?, story.to_owned()))
            })
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }
}
