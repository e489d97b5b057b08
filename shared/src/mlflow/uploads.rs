//! What a client may send in the body of a plain PUT, and what to do with more.

use crate::error::{Error, ErrorCode};

/// Largest file that a plain PUT may carry, in bytes.
///
/// Lambda takes 6 MiB of request, and bytes that are no text reach it in base64, a third longer.
pub const MAX_PLAIN_BYTES: usize = 4_400_000;

/// The refusal of a larger file; it names what the client sets to send it otherwise.
pub fn file_too_large() -> Error {
    Error::new(
        ErrorCode::BodyTooLarge,
        format!(
            "The file is larger than {MAX_PLAIN_BYTES} bytes, which is the most that can be sent through the server. \
             Set MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=true and MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE=4000000 in \
             the environment of the client (MLflow 2.11 or newer), or use MLflow 3.18 or newer, which needs no setting: \
             larger files then go straight to S3."
        ),
    )
}

/// Whether a path is that of a file's upload.
pub(crate) fn is_upload(path: &str) -> bool {
    path.contains("/mlflow-artifacts/artifacts/")
}
