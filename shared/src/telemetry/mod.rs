//! Logs and metrics: JSON lines on Lambda, lines for people on one machine.

pub mod logs;
pub mod metrics;
