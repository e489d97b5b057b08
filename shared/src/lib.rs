//! What all functions of Slipway share: the domain, the store, the HTTP edge, events and hosting.
//!
//! [`domain`] is pure and compiles alone (`--no-default-features`).
//! Everything else is behind the feature `aws`.

pub mod domain;
pub mod error;

#[cfg(feature = "aws")]
pub mod app;
#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "aws")]
pub mod bus;
#[cfg(feature = "aws")]
pub mod check_token;
#[cfg(feature = "aws")]
pub mod config;
#[cfg(feature = "aws")]
pub mod documents;
#[cfg(feature = "aws")]
pub mod dynamodb;
#[cfg(feature = "aws")]
pub mod events;
#[cfg(feature = "aws")]
pub mod http;
#[cfg(feature = "aws")]
pub mod lambda;
#[cfg(feature = "aws")]
pub mod lane_queue;
#[cfg(feature = "aws")]
pub mod mlflow;
#[cfg(feature = "aws")]
pub mod oci;
#[cfg(feature = "aws")]
pub mod s3;
#[cfg(feature = "aws")]
pub mod seal;
#[cfg(feature = "aws")]
pub mod signing;
#[cfg(feature = "aws")]
pub mod telemetry;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "aws")]
pub mod topics;

#[cfg(feature = "aws")]
pub use app::App;
#[cfg(feature = "aws")]
pub use aws::Transport;
pub use error::{Error, ErrorCode, Result};
