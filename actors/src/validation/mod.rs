//! What a run has changed, and whether a person can see it (section 9).

pub mod changed_paths;
mod rules;

pub use rules::UiRules;
