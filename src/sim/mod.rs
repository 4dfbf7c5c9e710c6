//! A network that is made up, in the place of the kernel's: what `event::Stream`, `event::Listener` and `event::Pipe` hold in tests.
#![allow(dead_code, unused_imports, reason = "the simulation comes next")]

pub mod network;
mod rng;
mod trace;
