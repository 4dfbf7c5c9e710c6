//! Moving a tunnel's bytes: one direction, written once and used twice.
//!
//! A [`Half`] takes bytes from one connection and gives them to the other. What it holds in between is in one place at a
//! time, a buffer or a pipe, and reading rests until that place is empty again: back-pressure is the kernel's own.

mod half;
mod pipe_pool;
mod run;
#[cfg(test)]
mod tests;

pub use half::{Half, Moved, RelayError, Resources, Turn};
pub use pipe_pool::PipePool;
pub use run::{Run, RunTurn};
