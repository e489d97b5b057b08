//! Plays concurrent clients and faults against the registry, and checks that it stayed linearizable.
//!
//! Everything is the production path: requests enter the routers of the functions, and leave through the AWS SDK with
//! its retries. Only the network is another: a call waits until the run says how it goes on. It is lost, refused,
//! throttled, applied at once or long after the client gave up, and its answer arrives or not; what answers is the
//! embedded DynamoDB, in memory.
//!
//! One seed decides everything, so a seed that fails fails again:
//!
//! ```text
//! cargo run --profile simulation --package simulation -- --first 4711 --seeds 1 --trace
//! ```
//!
//! - [`network`]: the calls under way, and what may become of them;
//! - [`mutation`]: writes with one condition removed, to show that each is needed;
//! - [`wishes`] and [`draw`]: what clients ask for, at random, by the theme of a seed;
//! - [`mod@play`]: one run of one seed;
//! - [`model`] and [`world`]: what a registry is, in the simplest words;
//! - [`check`]: whether what happened is what the model allows.

mod blame;
pub mod check;
mod clients;
pub mod conditions;
mod direct;
pub mod draw;
pub mod hunt;
mod items;
pub mod model;
pub mod mutation;
pub mod network;
mod parallel;
pub mod play;
mod requests;
pub mod wishes;
pub mod world;

pub use check::Violation;
pub use mutation::{Mutation, Site};
pub use play::{Options, Played, play};
