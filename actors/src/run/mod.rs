//! One run: its envelopes, its state, its actor.

pub mod effect;
