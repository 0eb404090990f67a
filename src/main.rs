//! The `runwarden` program.

fn main() {}
