//! Tests of the project itself: documents agree with the program, modules respect the dependency rules, the prose keeps
//! to plain English, and the fuzzing corpus still passes.
//!
//! `documentation` installs this process's logger, so tests of a gateway's behaviour do not belong here.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod corpus;
mod documentation;
mod language;
mod links;
mod pages;
mod paths;
mod profile;
mod recipes;
mod security;
mod session;
mod specification;
mod tools;

use std::path::Path;

/// The repository's root.
fn root() -> &'static Path {
    Path::new(support::toolbox::ROOT)
}
