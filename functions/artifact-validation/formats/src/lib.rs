//! Inspects files of machine-learning models by range reads, without executing anything in them.
//!
//! [`inspect()`] takes a [`Bundle`] (the files of one model version) and answers a [`Report`]: a verdict, the findings
//! that led to it, and the facts that were read out of the files.
//! Nothing here knows S3, HTTP or a clock: bytes come from a [`Source`], and a source that fails makes the report
//! `incomplete`, which never counts as clean.

pub mod bundle;
pub mod check;
pub mod completeness;
pub mod inspect;
pub mod policy;
pub mod rejudge;
pub mod report;
pub mod rules;
pub mod source;

pub mod companion;
pub mod compressed;
pub mod pickle;
pub mod text;
pub mod torch;
pub mod zip;

pub mod coreml;
pub mod gguf;
pub mod hdf5;
pub mod keras;
pub mod onnx;
pub mod safetensors;
pub mod savedmodel;
pub mod templates;
pub mod tflite;

mod keras_config;
mod protobuf;
mod strict_json;
#[cfg(test)]
mod test_support;
mod window;

pub mod archive;
pub mod catboost;
pub mod environment;
pub mod huggingface;
pub mod licence;
pub mod lightgbm;
pub mod mlflow;
pub mod npy;
pub mod pmml;
pub mod skops;
pub mod triton;
pub mod xgboost;

mod cache;
mod cursor;
mod edges;
mod events;
mod facts;
mod inflated;
mod yaml;

pub use bundle::{Bundle, BundleFile};
pub use check::Check;
pub use completeness::Requirements;
pub use inspect::{Limits, inspect};
pub use policy::Policy;
pub use rejudge::rejudge;
pub use report::{FileReport, Finding, Report, Verdict};
pub use source::{ReadError, Source};
