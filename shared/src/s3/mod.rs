//! The bucket: keys, and the few verbs that the registry needs of it.
//!
//! No SDK type appears in a public signature here. Bytes of artifacts pass through API functions only where a client of
//! MLflow leaves no other way, and then are small.

mod bucket;
mod copies;
pub mod keys;
mod removal;
mod tracked;

pub use bucket::{
    Bucket, CompletedPart, MultipartUpload, ObjectHead, ObjectInfo, PresignedRequest,
};
pub use copies::{Copied, Copy, Hashed, MOST_COPIED_BYTES, Source};
pub use removal::ObjectVersion;
pub use tracked::{Folder, SmallObject};
