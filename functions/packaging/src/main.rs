//! The Lambda function `packaging`.

#[tokio::main(flavor = "current_thread")]
async fn main() {}
