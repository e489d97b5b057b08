//! The same inputs under libFuzzer: `cargo +nightly fuzz run libfuzzer --features libfuzzer -- -max_len=65536`.
//!
//! The first byte chooses the group of formats, the rest is the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_formats_fuzz::{GROUPS, judge};

fuzz_target!(|data: &[u8]| {
    if let Some((first, content)) = data.split_first()
        && let Some(group) = GROUPS.get(usize::from(*first) % GROUPS.len())
    {
        judge(group.paths[0], content);
    }
});
