//! The Lambda function `query`.

#[tokio::main(flavor = "current_thread")]
async fn main() {}
