//! The Lambda function `notifications`.

#[tokio::main(flavor = "current_thread")]
async fn main() {}
