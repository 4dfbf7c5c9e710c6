//! x
use crate::arguments::CompareOptions;
use std::error::Error;
use std::process::ExitCode;
pub fn run(_: &CompareOptions) -> Result<ExitCode, Box<dyn Error>> {
    Err("not yet".into())
}
