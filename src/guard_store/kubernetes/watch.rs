//! Waiting for changes of the Lease: one JSON object a line, for as long as the API keeps the answer open.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use ureq::BodyReader;

use super::super::cell::{Kept, StoreFault, Watch};
use super::answer::said;
use super::client::Client;
use super::lease::Lease;
use crate::limits::KUBERNETES_ANSWER_BYTES;

/// A watch of one Lease. It opens its connection with the first call, and keeps it between calls.
pub(super) struct LeaseWatch {
    client: Arc<Client>,
    stream: Option<Stream>,
}

/// The body of an answer that is still coming.
struct Stream {
    lines: BufReader<BodyReader<'static>>,
    opened: Instant,
}

/// What an event means to the caller.
#[derive(Debug, PartialEq)]
enum Event {
    /// The Lease has changed, or is reported for the first time.
    Changed(Lease),
    Deleted,
    /// A bookmark, or a kind of event that later versions of Kubernetes may send.
    Other,
    /// The API ended the watch, with this explanation.
    Ended(String),
}

impl LeaseWatch {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, stream: None }
    }

    fn next_change(&mut self) -> Result<Kept, StoreFault> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                closed => {
                    closed.insert(Stream { lines: BufReader::new(self.client.open_watch()?), opened: Instant::now() })
                }
            };
            let Some(line) = stream.line(&self.client)? else {
                return self.after_the_end("");
            };
            match parse(&line, self.client.lease_name()) {
                Ok(Event::Changed(lease)) if self.client.is_outdated(&lease) => {}
                Ok(Event::Changed(lease)) => return self.client.kept(Some(lease), self.client.now_ms()),
                Ok(Event::Deleted) => return self.client.kept(None, self.client.now_ms()),
                Ok(Event::Other) => {}
                Ok(Event::Ended(why)) => return self.after_the_end(&why),
                Err(what) => return Err(self.client.unavailable(&format!("sent {what} in a watch"))),
            }
        }
    }

    /// Reads the Lease: a watch that has ended, or cannot be continued (410 Gone), may have missed a change.
    fn after_the_end(&mut self, why: &str) -> Result<Kept, StoreFault> {
        let opened = self.stream.take().map(|stream| stream.opened);
        if opened.is_some_and(|opened| opened.elapsed() < self.client.timing().watch_short) {
            // The caller waits after a fault. Otherwise it would ask again at once, and for ever.
            return Err(self.client.unavailable(&format!("ended a watch right after its beginning{why}")));
        }
        self.client.read()
    }
}

impl Watch for LeaseWatch {
    fn next(&mut self) -> Result<Kept, StoreFault> {
        let next = self.next_change();
        if next.is_err() {
            self.stream = None;
        }
        next
    }
}

impl Stream {
    /// The next line that is not empty; `None` at the end.
    fn line(&mut self, client: &Client) -> Result<Option<Vec<u8>>, StoreFault> {
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut self.lines).take(KUBERNETES_ANSWER_BYTES);
            let read = bounded.read_until(b'\n', &mut line);
            read.map_err(|error| client.transport_fault(&ureq::Error::from(error)))?;
            match line.last() {
                None => return Ok(None),
                Some(b'\n') if line.len() == 1 => {}
                Some(b'\n') => return Ok(Some(line)),
                Some(_) if line.len() as u64 == KUBERNETES_ANSWER_BYTES => {
                    return Err(client.unavailable("sent a line that is too long in a watch"));
                }
                // The last line of a body that ends with its event.
                Some(_) => return Ok(Some(line)),
            }
        }
    }
}

/// Reads an event about the Lease of this name.
///
/// # Errors
/// What is wrong with it, in words.
fn parse(line: &[u8], lease: &str) -> Result<Event, String> {
    let event: Value = serde_json::from_slice(line).map_err(|error| format!("a line that is not JSON ({error})"))?;
    let Value::Object(mut event) = event else { return Err("JSON that is not an object".to_owned()) };
    let object = event.remove("object").unwrap_or_default();
    match event.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED") => Lease::from_value(object, lease).map(Event::Changed),
        Some("DELETED") => Ok(Event::Deleted),
        Some("ERROR") => {
            let code = object["code"].as_u64().unwrap_or_default();
            Ok(Event::Ended(format!(" ({code}){}", said(&object))))
        }
        Some(_) => Ok(Event::Other),
        None => Err("an event without a type".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ANNOTATION;
    use super::*;

    fn lease() -> Value {
        let mut lease = Lease::creation("guard", "egress", "text");
        lease["metadata"]["resourceVersion"] = json!("5");
        lease
    }

    fn event(kind: &str, object: &Value) -> Result<Event, String> {
        parse(json!({ "type": kind, "object": object }).to_string().as_bytes(), "guard")
    }

    #[test]
    fn events_that_change_the_lease_carry_it() {
        for kind in ["ADDED", "MODIFIED"] {
            let Ok(Event::Changed(found)) = event(kind, &lease()) else { panic!("{kind}") };
            assert_eq!((found.text(), found.version()), (Some("text"), "5"));
        }
        assert_eq!(event("DELETED", &lease()), Ok(Event::Deleted));
    }

    #[test]
    fn bookmarks_and_unknown_events_are_ignored() {
        let bookmark = json!({ "kind": "Lease", "metadata": { "resourceVersion": "9" } });
        assert_eq!(event("BOOKMARK", &bookmark), Ok(Event::Other));
        assert_eq!(event("LATER", &Value::Null), Ok(Event::Other));
    }

    #[test]
    fn an_error_event_ends_the_watch_with_its_code_and_message() {
        let gone = json!({ "kind": "Status", "code": 410, "message": "too old resource version: 3 (9)" });
        let expected = " (410); it says: too old resource version: 3 (9)".to_owned();
        assert_eq!(event("ERROR", &gone), Ok(Event::Ended(expected)));
    }

    #[test]
    fn an_event_that_is_cut_or_corrupted_at_any_byte_never_panics() {
        let line = json!({ "type": "MODIFIED", "object": lease() }).to_string().into_bytes();
        let read = |line: &[u8]| {
            if let Ok(Event::Changed(lease)) = parse(line, "guard") {
                assert_eq!(lease.replacement("new")["metadata"]["annotations"][ANNOTATION], "new");
            }
        };
        for place in 0..line.len() {
            read(&line[..place]);
            for byte in [0, b'"', b'{', b'}', b'[', b'0', b'x', b'\\', 0x80, 0xff] {
                let mut corrupted = line.clone();
                corrupted[place] = byte;
                read(&corrupted);
            }
        }
    }

    #[test]
    fn lines_that_are_no_event_are_described() {
        for (line, expected) in [
            ("{\"type\":", "a line that is not JSON"),
            ("[]", "JSON that is not an object"),
            ("{}", "an event without a type"),
            ("{\"type\":\"ADDED\"}", "JSON that is not an object"),
            ("{\"type\":\"ADDED\",\"object\":{}}", "an object of the kind \"\""),
        ] {
            let found = parse(line.as_bytes(), "guard").expect_err(line);
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
