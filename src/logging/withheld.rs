//! Keeps lines out of the log that would show a secret, whatever `RUST_LOG` asks for.

use log::{Level, Log, Metadata, Record};

/// Libraries that log the bytes of each HTTP request at TRACE, and with them the token of the pod's service account.
const TALKATIVE: [&str; 2] = ["ureq", "ureq_proto"];

/// A logger without the lines that would show a secret.
pub(super) struct Withheld<L>(pub(super) L);

impl<L: Log> Log for Withheld<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !is_withheld(metadata) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !is_withheld(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn is_withheld(metadata: &Metadata<'_>) -> bool {
    let library = || metadata.target().split("::").next().unwrap_or_default();
    metadata.level() == Level::Trace && TALKATIVE.contains(&library())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_requests_are_withheld_and_nothing_else() {
        let is_withheld = |target, level| is_withheld(&Metadata::builder().target(target).level(level).build());
        for target in ["ureq", "ureq::run", "ureq_proto::util"] {
            assert!(is_withheld(target, Level::Trace), "{target}");
            assert!(!is_withheld(target, Level::Debug), "{target}");
        }
        for target in ["ntlm_gateway::guard_store", "ureqs", "rustls::client"] {
            assert!(!is_withheld(target, Level::Trace), "{target}");
        }
    }
}
