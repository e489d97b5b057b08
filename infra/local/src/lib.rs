//! All of Slipway on one machine, in one process.
//!
//! [`stack::Stack`] starts the embedded servers, mounts every function behind one HTTP port, and pumps events through
//! the very handlers that Lambda runs. The binary `slipway` is a command line around it, and the integration tests use
//! it as it is.
//!
//! The embedded servers know nothing of the registry; what the registry deploys is written down in [`definition`], and
//! what its functions are is known to [`functions`] alone.

pub mod command_line;
pub mod definition;
pub mod functions;
pub mod stack;
pub mod verify;

mod wire;

pub mod clock;
pub mod data_folder;
pub mod dynamodb;
pub mod inbox;
pub mod kms;
pub mod queues;
pub mod s3;
