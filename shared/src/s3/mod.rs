//! The bucket: keys, and the few verbs that the registry needs of it.
//!
//! No SDK type appears in a public signature here. Bytes of artifacts never pass through API functions.

mod bucket;
pub mod keys;

pub use bucket::{
    Bucket, CompletedPart, MultipartUpload, ObjectHead, ObjectInfo, PresignedRequest,
};
