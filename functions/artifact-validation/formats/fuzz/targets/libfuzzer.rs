//! The same inputs under libFuzzer: `cargo +nightly fuzz run libfuzzer --features libfuzzer -- -max_len=65536`.
//!
//! The environment variable `FUZZ_GROUP` names one group of formats; without it, the first byte chooses one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_formats_fuzz::{GROUPS, judge};

fuzz_target!(|data: &[u8]| {
    let chosen = std::env::var("FUZZ_GROUP").ok();
    let (group, content) = match (&chosen, data.split_first()) {
        (Some(name), _) => (GROUPS.iter().find(|group| group.name == name), data),
        (None, Some((first, rest))) => (GROUPS.get(usize::from(*first) % GROUPS.len()), rest),
        (None, None) => return,
    };
    if let Some(group) = group {
        judge(group.paths[0], content);
    }
});
