//! The bucket: keys, and the few verbs that the registry needs of it.
//!
//! No SDK type appears in a public signature here. Bytes of artifacts never pass through API functions.

mod bucket;
mod copies;
pub mod keys;
mod removal;

pub use bucket::{
    Bucket, CompletedPart, MultipartUpload, ObjectHead, ObjectInfo, PresignedRequest,
};
pub use copies::{Copied, Copy, MOST_COPIED_BYTES, Source};
pub use removal::ObjectVersion;
