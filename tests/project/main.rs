//! The project itself: the documents agree with the program, modules keep to their dependencies, inputs once found stay found.
//!
//! `documentation` installs this process's logger, so no test of a gateway's behaviour belongs here.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod corpus;
mod documentation;
mod links;
mod pages;
mod paths;
mod security;
mod specification;
mod tools;
