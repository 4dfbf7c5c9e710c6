//! The built-in origins, chosen by the first label of a destination's name.
//!
//! | name | what it does |
//! |---|---|
//! | `echo.*` | sends back what it receives |
//! | `greet.*` | sends a line first, then echoes |
//! | `source-N.*` | sends N bytes of the pattern, then ends its direction |
//! | `stream.*` | sends the pattern until the client ends its direction |
//! | `sink.*` | reads to the end, then sends a line with the number and the checksum of the bytes |
//! | `hello.*` | answers HTTP requests with a small page |
//! | `silent.*` | reads, and sends nothing |
//!
//! All of them end their direction when the client has ended its own, at the latest.

use super::hello_origin::HelloOrigin;
use super::pattern::{Checksum, pattern_block};

/// The first line that `greet.*` sends.
pub const GREETING: &[u8] = b"220 greet ready\r\n";

/// An origin at the end of one tunnel.
#[derive(Debug)]
pub struct Origin {
    kind: OriginKind,
    ended: bool,
}

#[derive(Debug)]
enum OriginKind {
    Echo,
    Greet {
        sent: usize,
    },
    Source {
        offset: u64,
        /// `u64::MAX`: endless.
        end: u64,
    },
    Sink(Checksum),
    Hello(Box<HelloOrigin>),
    Silent,
}

/// How an origin reacts to bytes that it received.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It sends nothing.
    Nothing,
    /// It sends back the same bytes.
    Mirror,
    /// It sends these bytes.
    Send(Vec<u8>),
}

impl Origin {
    /// The origin with this host name; `None` if there is no such origin.
    #[must_use]
    pub fn of_host(name: &str) -> Option<Origin> {
        let label = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let kind = match label.as_str() {
            "echo" => OriginKind::Echo,
            "greet" => OriginKind::Greet { sent: 0 },
            "stream" => OriginKind::Source { offset: 0, end: u64::MAX },
            "sink" => OriginKind::Sink(Checksum::default()),
            "hello" => OriginKind::Hello(Box::default()),
            "silent" => OriginKind::Silent,
            _ => OriginKind::Source { offset: 0, end: label.strip_prefix("source-")?.parse().ok()? },
        };
        Some(Origin { kind, ended: false })
    }

    /// The next bytes that it sends on its own initiative; empty if there are none. Report how many of them were sent
    /// to [`Origin::unsolicited_sent`].
    #[must_use]
    pub fn unsolicited(&self) -> &'static [u8] {
        match &self.kind {
            OriginKind::Greet { sent } => GREETING.get(*sent..).unwrap_or_default(),
            OriginKind::Source { offset, end } if !self.ended => {
                let block = pattern_block(*offset);
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                &block[..block.len().min(left)]
            }
            _ => &[],
        }
    }

    /// The first `count` bytes of [`Origin::unsolicited`] have been sent.
    pub fn unsolicited_sent(&mut self, count: usize) {
        match &mut self.kind {
            OriginKind::Greet { sent } => *sent += count,
            OriginKind::Source { offset, .. } => *offset += count as u64,
            _ => {}
        }
    }

    /// Receives bytes of the client.
    pub fn receive(&mut self, bytes: &[u8]) -> Reaction {
        match &mut self.kind {
            OriginKind::Echo | OriginKind::Greet { .. } => Reaction::Mirror,
            OriginKind::Source { .. } | OriginKind::Silent => Reaction::Nothing,
            OriginKind::Sink(sum) => {
                sum.update(bytes);
                Reaction::Nothing
            }
            OriginKind::Hello(_) if self.ended => Reaction::Nothing,
            OriginKind::Hello(hello) => {
                let page = hello.receive(bytes);
                self.ended = hello.has_ended();
                if page.is_empty() { Reaction::Nothing } else { Reaction::Send(page) }
            }
        }
    }

    /// The client has ended its direction. Returns what the origin still sends.
    pub fn finish(&mut self) -> Reaction {
        if let OriginKind::Source { end, .. } = &self.kind
            && *end != u64::MAX
        {
            return Reaction::Nothing;
        }
        self.ended = true;
        match &self.kind {
            OriginKind::Sink(sum) => Reaction::Send(sink_line(sum).into_bytes()),
            _ => Reaction::Nothing,
        }
    }

    /// Whether it has nothing more to send, apart from bytes that it has returned already.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.kind {
            OriginKind::Source { offset, end } => self.ended || offset == end,
            _ => self.ended,
        }
    }
}

/// The line that a sink sends about what it received: `sink bytes=N checksum=H` with 16 hexadecimal digits, and a line
/// feed.
#[must_use]
pub fn sink_line(sum: &Checksum) -> String {
    format!("sink bytes={} checksum={:016x}\n", sum.count(), sum.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::pattern_mismatch;

    #[test]
    fn an_origin_is_chosen_by_the_first_label_of_a_name() {
        for name in ["echo.test", "ECHO", "greet.a.b", "stream.x", "sink.x", "hello.demo", "silent.x", "source-0.x"] {
            assert!(Origin::of_host(name).is_some(), "{name}");
        }
        for name in ["", "example.test", "source.x", "source--1.x", "source-1x.y", "echoes.x"] {
            assert!(Origin::of_host(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_source_sends_exactly_its_bytes_whatever_the_client_does() {
        let mut source = Origin::of_host("source-1000000.test").unwrap();
        let mut offset = 0;
        while !source.is_done() {
            let bytes = source.unsolicited();
            let taken = bytes.len().min(77_777);
            assert_eq!(pattern_mismatch(&bytes[..taken], offset), None);
            offset += taken as u64;
            source.unsolicited_sent(taken);
            assert_eq!(source.receive(b"heard"), Reaction::Nothing);
            assert_eq!(source.finish(), Reaction::Nothing);
        }
        assert_eq!(offset, 1_000_000);
    }

    #[test]
    fn a_stream_ends_with_its_client() {
        let mut stream = Origin::of_host("stream.test").unwrap();
        stream.unsolicited_sent(1 << 30);
        assert!(!stream.unsolicited().is_empty() && !stream.is_done());
        stream.finish();
        assert!(stream.unsolicited().is_empty() && stream.is_done());
    }

    #[test]
    fn a_sink_reports_what_it_received() {
        let mut sink = Origin::of_host("sink.test").unwrap();
        let mut sum = Checksum::default();
        for piece in [&b"abc"[..], b"", b"defghijklmnop"] {
            sum.update(piece);
            assert_eq!(sink.receive(piece), Reaction::Nothing);
        }
        assert!(!sink.is_done());
        assert_eq!(sink.finish(), Reaction::Send(sink_line(&sum).into_bytes()));
        assert!(sink_line(&sum).starts_with("sink bytes=16 checksum="));
        assert!(sink.is_done());
    }

    #[test]
    fn a_greeter_sends_first_and_then_echoes() {
        let mut greeter = Origin::of_host("greet.test").unwrap();
        greeter.unsolicited_sent(4);
        assert_eq!(greeter.unsolicited(), b"greet ready\r\n");
        greeter.unsolicited_sent(13);
        assert_eq!(greeter.unsolicited(), b"");
        assert_eq!(greeter.receive(b"x"), Reaction::Mirror);
    }
}
