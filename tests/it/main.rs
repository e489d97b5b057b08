//! One integration binary: stories, budgets, crash points, borders between tenants, and checks of the tree.
//!
//! Every test starts the very host that `cargo run` starts, in memory, and drives events by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod approvals;
mod architecture;
mod artifacts;
mod audit;
mod authorization;
mod bad_input;
mod budgets;
mod concurrency;
mod conditions;
mod crashes;
mod endpoints;
mod events;
mod exchange;
mod growth;
mod holding;
mod idempotency;
mod interleavings;
mod journey;
mod lambda;
mod lineage;
mod mlflow;
mod names;
mod notifications;
mod oci;
mod openapi;
mod packages;
mod policy;
mod promotion;
mod promotion_budgets;
mod races;
mod reads;
mod rollouts;
mod searches;
mod tenants;
mod tracking;
mod validation;
mod world;
