//! The bucket: keys, and the few verbs that the registry needs of it.
//!
//! No SDK type appears in a public signature here. Bytes of artifacts pass through API functions only where a client of
//! MLflow leaves no other way, and then are small.

mod bucket;
pub mod keys;
mod tracked;

pub use bucket::{
    Bucket, CompletedPart, MultipartUpload, ObjectHead, ObjectInfo, PresignedRequest,
};
pub use tracked::{Folder, SmallObject};
