//! The time that the embedded servers go by.
//!
//! Nothing in this crate asks the operating system for the time: whoever opens a server hands it a [`Clock`], so that
//! a test can let a day pass without waiting for one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Counts the milliseconds since 1970.
///
/// A clock that stands before 1970 counts as 1970: it is wrong, and no reason to stop.
pub(crate) fn unix_ms(clock: &Clock) -> i64 {
    milliseconds(clock().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Counts the milliseconds of a duration, as SQLite's integers do.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Turns stored milliseconds back into a time.
pub(crate) fn time_from_ms(unix_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or_default())
}
