//! What the gateway spends on a message, a tunnel and a request: instructions, allocations and system calls. Unlike
//! times, these are the same on a busy machine, so a change that makes anything slower fails here.
//!
//! `tests/run` builds the program that is counted, with the profile `instructions`, and names it in
//! `NTLM_GATEWAY_TESTS_OPTIMISED`.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod callgrind;
mod calls;
mod protocols;
mod work;

/// The program that is counted; `None` if the test is to be skipped.
fn program() -> Option<String> {
    let named = std::env::var("NTLM_GATEWAY_TESTS_OPTIMISED").ok();
    if named.is_none() {
        support::tools::skip("NTLM_GATEWAY_TESTS_OPTIMISED names no program");
    }
    named
}

/// Compares a count with the one that is committed.
struct Comparison {
    /// By how much they may differ.
    tolerance: f64,
    /// Where the expected counts are.
    file: &'static str,
    wrong: Vec<String>,
}

impl Comparison {
    fn new(file: &'static str) -> Comparison {
        Comparison { tolerance: 0.0, file, wrong: Vec::new() }
    }

    /// Fails at the end if the count is more than expected, and asks for the new one if it is less.
    fn compare(&mut self, unit: &str, what: &str, counted: f64, expected: f64) {
        println!("{counted:>10.1} {unit} for {what}, expected {expected}");
        if counted > expected + self.tolerance {
            self.wrong.push(format!("{counted:.1} {unit} for {what}, which is more than {expected}"));
        } else if counted + self.tolerance < expected {
            let file = self.file;
            support::tools::say(&format!(
                "{counted:.1} {unit} for {what} are less than expected: please replace {expected} in {file}"
            ));
        }
    }

    fn finish(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}
