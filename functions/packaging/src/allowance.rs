//! What one invocation may spend before it leaves the rest to another: time, and copies.

use shared::App;
use shared::app::Clock;
use shared::domain::Timestamp;
use std::sync::{Mutex, PoisonError};

/// The allowance of one invocation, which everything in its batch shares.
#[derive(Debug)]
pub(crate) struct Allowance {
    clock: Clock,
    end: Timestamp,
    copies: Mutex<Copies>,
}

#[derive(Debug)]
struct Copies {
    /// How many are left, where they are bounded.
    left: Option<u64>,
    /// How many were made.
    made: u64,
}

impl Allowance {
    /// The allowance of an invocation that begins now.
    pub(crate) fn of(app: &App) -> Self {
        let millis = app.config.packaging_seconds.saturating_mul(1000);
        Self {
            clock: app.clock.clone(),
            end: app.clock.now().plus_millis(millis),
            copies: Mutex::new(Copies {
                left: app.config.packaging_copies,
                made: 0,
            }),
        }
    }

    /// Whether one more object or part may be written.
    pub(crate) fn take(&self) -> bool {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.left == Some(0) || self.clock.now() >= self.end {
            return false;
        }
        copies.left = copies.left.map(|left| left - 1);
        copies.made += 1;
        true
    }

    /// What was allowed had been done before, and cost next to nothing.
    pub(crate) fn give_back(&self) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.left = copies.left.map(|left| left + 1);
        copies.made = copies.made.saturating_sub(1);
    }

    /// Whether this invocation got anything further, so that another one may be set going.
    pub(crate) fn has_progressed(&self) -> bool {
        self.copies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .made
            > 0
    }
}
