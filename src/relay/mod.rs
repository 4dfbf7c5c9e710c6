//! Moves the bytes of a tunnel. One direction is implemented, and used twice.
//!
//! A [`Half`] reads from one connection and writes to the other. Bytes in between are in one place at a time, a buffer
//! or a pipe, and nothing more is read until that place is empty: the kernel's own buffers provide the back-pressure.

mod bulk_pace;
mod half;
mod pipe_pool;
mod run;
#[cfg(test)]
mod tests;

pub use bulk_pace::BulkPace;
pub use half::{Half, Moved, RelayError, Resources, Turn};
pub use pipe_pool::PipePool;
pub use run::{Run, RunTurn};
