//! x
use crate::arguments::ReportOptions;
use std::error::Error;
use std::process::ExitCode;
pub fn run(_: &ReportOptions) -> Result<ExitCode, Box<dyn Error>> {
    Err("not yet".into())
}
