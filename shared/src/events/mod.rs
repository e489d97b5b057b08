//! Events from AWS: queue messages with S3 notifications, stream records, schedules.
//!
//! Every event may come twice, late, out of order or not at all; handlers treat each as a hint to look.

pub mod batch;
pub mod by_version;
pub mod s3;

pub use batch::{Incoming, Message, each_message, each_record};
pub use by_version::{ByVersion, batch_failures};
pub use s3::ObjectCreated;
