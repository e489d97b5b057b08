//! What one invocation may spend before it leaves the rest to another: time, and bytes read for digests.

use shared::App;
use shared::app::Clock;
use shared::domain::Timestamp;
use std::sync::{Mutex, PoisonError};

/// The allowance of one invocation, which all versions of its batch share.
#[derive(Debug)]
pub(crate) struct Allowance {
    clock: Clock,
    half: Timestamp,
    end: Timestamp,
    bytes: Mutex<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    /// What is left, where it is bounded.
    left: Option<u64>,
    /// Whether anything was read, so that every invocation gets at least one piece further.
    has_begun: bool,
    /// Whether something was refused; then everything is, so that what is stopped stays in order.
    is_used_up: bool,
}

impl Allowance {
    /// The allowance of an invocation that begins now.
    pub(crate) fn of(app: &App) -> Self {
        let now = app.clock.now();
        let millis = app.config.validation_seconds.saturating_mul(1000);
        Self {
            clock: app.clock.clone(),
            half: now.plus_millis(millis / 2),
            end: now.plus_millis(millis),
            bytes: Mutex::new(Bytes {
                left: app.config.validation_bytes,
                has_begun: false,
                is_used_up: false,
            }),
        }
    }

    /// Whether so many bytes more may be read for a digest.
    pub(crate) fn take(&self, wanted: u64) -> bool {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = bytes.left.is_none_or(|left| wanted <= left) && !self.is_over();
        if bytes.is_used_up || (!fits && bytes.has_begun) {
            bytes.is_used_up = true;
            return false;
        }
        bytes.has_begun = true;
        bytes.left = bytes.left.map(|left| left.saturating_sub(wanted));
        true
    }

    /// Whether something that takes so long may begin.
    pub(crate) fn take_millis(&self, wanted: u64) -> bool {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = self.clock.now().plus_millis(wanted) <= self.end;
        if bytes.is_used_up || (!fits && bytes.has_begun) {
            bytes.is_used_up = true;
            return false;
        }
        bytes.has_begun = true;
        true
    }

    /// Whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.clock.now() >= self.end
    }

    /// Whether half of the time is over: an inspection that begins now might not end.
    pub(crate) fn is_half_over(&self) -> bool {
        self.clock.now() >= self.half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(left: Option<u64>) -> (Allowance, Clock) {
        let clock = Clock::fixed(Timestamp::from_millis(0));
        let allowance = Allowance {
            clock: clock.clone(),
            half: Timestamp::from_millis(50),
            end: Timestamp::from_millis(100),
            bytes: Mutex::new(Bytes {
                left,
                has_begun: false,
                is_used_up: false,
            }),
        };
        (allowance, clock)
    }

    #[test]
    fn one_piece_is_always_allowed_and_after_a_refusal_none() {
        let (allowance, _) = allowance(Some(10));
        assert!(allowance.take(20));
        assert!(!allowance.take(1));
        let (allowance, _) = self::allowance(Some(10));
        assert!(allowance.take(8));
        assert!(!allowance.take(3));
        assert!(!allowance.take(1));
    }

    #[test]
    fn what_would_outlast_the_invocation_begins_only_as_its_first() {
        let (allowance, _) = allowance(None);
        assert!(allowance.take_millis(100));
        assert!(!allowance.take_millis(101));
        assert!(!allowance.take_millis(1), "what is stopped stays in order");
        let (allowance, _) = self::allowance(None);
        assert!(allowance.take_millis(101));
    }

    #[test]
    fn time_ends_reading_as_bytes_do() {
        let (allowance, clock) = allowance(None);
        assert!(allowance.take(u64::MAX));
        clock.advance_millis(60);
        assert!(allowance.is_half_over() && !allowance.is_over());
        assert!(allowance.take(u64::MAX));
        clock.advance_millis(60);
        assert!(!allowance.take(1));
    }
}
