//! Measurements that others do not disturb.

use anyhow::Result;

/// Attempts at one of them.
const ATTEMPTS_MAX: usize = 50;

/// Measures again while others take more than `max_noise_percent` of the machine, and keeps the last attempt. What is
/// measured says its noise by `noise`.
pub async fn undisturbed<T>(
    max_noise_percent: f64,
    noise: impl Fn(&T) -> f64,
    mut measure: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let mut attempt = 1;
    loop {
        let measured = measure().await?;
        if noise(&measured) <= max_noise_percent || attempt == ATTEMPTS_MAX {
            return Ok(measured);
        }
        attempt += 1;
    }
}
