//! The Lambda function `register`.

#[tokio::main(flavor = "current_thread")]
async fn main() {}
