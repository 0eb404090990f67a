//! Reading command lines.

use anyhow::{Context, Result};

/// A whole number; `_` and `,` may stand between its digits.
pub fn number(text: &str) -> Result<u64> {
    text.replace(['_', ','], "").parse().with_context(|| format!("`{text}` is not a whole number"))
}

/// `NAME=VALUE`.
pub fn setting(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("--set NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
