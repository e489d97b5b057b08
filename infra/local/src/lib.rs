//! The embedded stack.

pub mod clock;
pub mod data_folder;
pub mod dynamodb;
pub mod queues;
pub mod s3;
