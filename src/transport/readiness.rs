//! What is known of a socket's readiness under edge-triggered notification.

use rustix::event::epoll::EventFlags;

/// What a socket can do, according to the kernel's last notifications.
///
/// Registration is edge-triggered: the kernel notifies once for each change. A bit therefore stays set until the socket
/// itself answers EAGAIN, or moves fewer bytes than it was asked for, which means the same. Whether anyone *wants* to
/// read or write is not stored here: it follows from the session's stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    const READABLE: u8 = 1;
    const WRITABLE: u8 = 2;
    const READ_CLOSED: u8 = 4;
    const RESET: u8 = 8;

    /// Nothing is known of the socket yet: reading and writing are worth a try.
    pub const HOPEFUL: Readiness = Readiness(Self::READABLE | Self::WRITABLE);

    /// The socket is still connecting.
    pub const NOTHING: Readiness = Readiness(0);

    /// The readiness that an event reports.
    pub fn of_event(event: &mio::event::Event) -> Readiness {
        Readiness::of_signs(Signs {
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            write_closed: event.is_write_closed(),
            error: event.is_error(),
        })
    }

    /// The readiness that the flags of an event report.
    #[inline]
    pub fn of_flags(flags: EventFlags) -> Readiness {
        let has = |flag| flags.contains(flag);
        let readable = has(EventFlags::IN);
        Readiness::of_signs(Signs {
            readable,
            writable: has(EventFlags::OUT),
            read_closed: has(EventFlags::HUP) || (readable && has(EventFlags::RDHUP)),
            write_closed: has(EventFlags::HUP),
            error: has(EventFlags::ERR),
        })
    }

    /// The readiness that the signs of an event report.
    #[inline]
    pub fn of_signs(signs: Signs) -> Readiness {
        let mut bits = 0;
        if signs.readable {
            bits |= Self::READABLE;
        }
        if signs.writable {
            bits |= Self::WRITABLE;
        }
        if signs.read_closed {
            bits |= Self::READ_CLOSED | Self::READABLE;
        }
        // EPOLLERR or EPOLLHUP: both directions have ended, and a read or a write returns the reason.
        if signs.error || (signs.read_closed && signs.write_closed) {
            bits |= Self::RESET | Self::READABLE | Self::WRITABLE;
        }
        Readiness(bits)
    }

    /// Adds what an event reported.
    pub fn learn(&mut self, more: Readiness) {
        self.0 |= more.0;
    }

    /// A read is worth a try.
    pub fn readable(self) -> bool {
        self.0 & Self::READABLE != 0
    }

    /// A write is worth a try.
    pub fn writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }

    /// The peer has ended its direction; reads will reach the end of file.
    pub fn read_closed(self) -> bool {
        self.0 & Self::READ_CLOSED != 0
    }

    /// Both directions of the connection have ended: it was reset, or both sides shut it down.
    pub fn reset(self) -> bool {
        self.0 & Self::RESET != 0
    }

    /// A read brought less than it asked for, so the socket is empty. A pending end of file is not forgotten: there is
    /// no second edge for it.
    pub fn read_exhausted(&mut self) {
        if !self.read_closed() {
            self.0 &= !Self::READABLE;
        }
    }

    /// The socket answered a read with EAGAIN.
    pub fn read_blocked(&mut self) {
        self.0 &= !Self::READABLE;
    }

    /// The socket answered a write with EAGAIN, or took less than it was given.
    pub fn write_blocked(&mut self) {
        self.0 &= !Self::WRITABLE;
    }
}

/// What an event reports, in mio's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// There is something to read, or a read returns an error.
    pub readable: bool,
    /// There is room to write, or a write returns an error.
    pub writable: bool,
    /// The peer has ended its direction, or both directions have ended.
    pub read_closed: bool,
    /// Our own direction has ended.
    pub write_closed: bool,
    /// The connection has failed.
    pub error: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_does_not_forget_an_announced_end_of_file() {
        let mut ready = Readiness(Readiness::READABLE | Readiness::READ_CLOSED);
        ready.read_exhausted();
        assert!(ready.readable());
        ready.read_blocked();
        assert!(!ready.readable());
    }

    #[test]
    fn a_short_read_clears_readability_when_no_end_was_announced() {
        let mut ready = Readiness::HOPEFUL;
        ready.read_exhausted();
        assert!(!ready.readable());
        assert!(ready.writable());
    }
}
