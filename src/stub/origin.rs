//! The origins that the stub plays itself, chosen by the first label of a destination's name.
//!
//! | name | what it does |
//! |---|---|
//! | `echo.*` | sends back what it gets |
//! | `greet.*` | sends a line first, then echoes |
//! | `source-N.*` | sends N bytes of the pattern, then ends its direction |
//! | `stream.*` | sends the pattern until the client ends its direction |
//! | `sink.*` | reads to the end, then sends a line with number and checksum of the bytes |
//! | `hello.*` | answers HTTP requests with a small page |
//! | `silent.*` | reads, and sends nothing |
//!
//! All of them end their direction, at the latest, when the client has ended its own.

use super::hello_origin::Hello;
use super::pattern::{Checksum, pattern_block};

/// The line with which `greet.*` begins.
pub const GREETING: &[u8] = b"220 greet ready\r\n";

/// An origin at the end of one tunnel.
#[derive(Debug)]
pub struct Origin {
    kind: Kind,
    ended: bool,
}

#[derive(Debug)]
enum Kind {
    Echo,
    Greet {
        sent: usize,
    },
    Source {
        offset: u64,
        /// `u64::MAX` for an endless one.
        end: u64,
    },
    Sink(Checksum),
    Hello(Box<Hello>),
    Silent,
}

/// What an origin does about bytes it got.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// Sends back the same bytes.
    Mirror,
    /// Sends these.
    Send(Vec<u8>),
}

impl Origin {
    /// The origin of that name; `None` for a name that the stub plays no origin for.
    #[must_use]
    pub fn of_host(name: &str) -> Option<Origin> {
        let label = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let kind = match label.as_str() {
            "echo" => Kind::Echo,
            "greet" => Kind::Greet { sent: 0 },
            "stream" => Kind::Source { offset: 0, end: u64::MAX },
            "sink" => Kind::Sink(Checksum::default()),
            "hello" => Kind::Hello(Box::default()),
            "silent" => Kind::Silent,
            _ => Kind::Source { offset: 0, end: label.strip_prefix("source-")?.parse().ok()? },
        };
        Some(Origin { kind, ended: false })
    }

    /// Bytes it sends unasked now; empty when there are none. What was sent of them is told by
    /// [`Origin::unasked_sent`].
    #[must_use]
    pub fn unasked(&self) -> &'static [u8] {
        match &self.kind {
            Kind::Greet { sent } => GREETING.get(*sent..).unwrap_or_default(),
            Kind::Source { offset, end } if !self.ended => {
                let block = pattern_block(*offset);
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                &block[..block.len().min(left)]
            }
            _ => &[],
        }
    }

    /// The first `count` bytes of [`Origin::unasked`] are on their way.
    pub fn unasked_sent(&mut self, count: usize) {
        match &mut self.kind {
            Kind::Greet { sent } => *sent += count,
            Kind::Source { offset, .. } => *offset += count as u64,
            _ => {}
        }
    }

    /// Takes in bytes of the client.
    pub fn receive(&mut self, bytes: &[u8]) -> Reaction {
        match &mut self.kind {
            Kind::Echo | Kind::Greet { .. } => Reaction::Mirror,
            Kind::Source { .. } | Kind::Silent => Reaction::Nothing,
            Kind::Sink(sum) => {
                sum.update(bytes);
                Reaction::Nothing
            }
            Kind::Hello(_) if self.ended => Reaction::Nothing,
            Kind::Hello(hello) => {
                let page = hello.receive(bytes);
                self.ended = hello.has_ended();
                if page.is_empty() { Reaction::Nothing } else { Reaction::Send(page) }
            }
        }
    }

    /// The client has ended its direction; what the origin still sends.
    pub fn finish(&mut self) -> Reaction {
        if let Kind::Source { end, .. } = &self.kind
            && *end != u64::MAX
        {
            return Reaction::Nothing;
        }
        self.ended = true;
        match &self.kind {
            Kind::Sink(sum) => Reaction::Send(sink_line(sum).into_bytes()),
            _ => Reaction::Nothing,
        }
    }

    /// Whether it has nothing more to send, once all that it gave has been sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Source { offset, end } => self.ended || offset == end,
            _ => self.ended,
        }
    }
}

/// What a sink says of what it got: `sink bytes=N checksum=H` with 16 hexadecimal digits, and a line feed.
#[must_use]
pub fn sink_line(sum: &Checksum) -> String {
    format!("sink bytes={} checksum={:016x}\n", sum.count(), sum.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::pattern_mismatch;

    #[test]
    fn names_choose_origins_by_their_first_label() {
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
            let bytes = source.unasked();
            let taken = bytes.len().min(77_777);
            assert_eq!(pattern_mismatch(&bytes[..taken], offset), None);
            offset += taken as u64;
            source.unasked_sent(taken);
            assert_eq!(source.receive(b"heard"), Reaction::Nothing);
            assert_eq!(source.finish(), Reaction::Nothing);
        }
        assert_eq!(offset, 1_000_000);
    }

    #[test]
    fn a_stream_ends_with_its_client() {
        let mut stream = Origin::of_host("stream.test").unwrap();
        stream.unasked_sent(1 << 30);
        assert!(!stream.unasked().is_empty() && !stream.is_done());
        stream.finish();
        assert!(stream.unasked().is_empty() && stream.is_done());
    }

    #[test]
    fn a_sink_tells_what_it_got() {
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
    fn a_greeter_speaks_first_and_echoes_then() {
        let mut greeter = Origin::of_host("greet.test").unwrap();
        greeter.unasked_sent(4);
        assert_eq!(greeter.unasked(), b"greet ready\r\n");
        greeter.unasked_sent(13);
        assert_eq!(greeter.unasked(), b"");
        assert_eq!(greeter.receive(b"x"), Reaction::Mirror);
    }
}
