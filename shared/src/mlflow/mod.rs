//! What every MLflow route shares.

pub mod filter;
