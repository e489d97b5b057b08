//! The embedded stack.

pub mod s3;
