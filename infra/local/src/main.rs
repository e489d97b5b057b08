//! Starts all of Slipway on one machine.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A request makes thousands of small allocations, most of them in the AWS SDK.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    local::command_line::run()
}
