//! Starts all of Slipway on one machine.

fn main() {}
