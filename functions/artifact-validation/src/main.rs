//! The Lambda function `artifact-validation`.

#[tokio::main(flavor = "current_thread")]
async fn main() {}
