//! Delivers a request to a KDC: the I/O of a [`Delivery`], blocking and bounded in time.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use super::deadline::{read_exact, time_until};
use crate::kerberos::{Delivery, ErrorCode, KdcTransport, KrbError, Try};
use crate::limits;

/// Why there is no reply.
#[derive(Debug, Error)]
pub enum AskError {
    /// No KDC is known, or the name of none resolves.
    #[error("no KDC is known for the realm {realm}: {why}")]
    NoKdc {
        /// The realm.
        realm: String,
        /// Why.
        why: String,
    },
    /// No KDC answers.
    #[error("no KDC of the realm {realm} answers: {why}")]
    Silent {
        /// The realm.
        realm: String,
        /// What happened at the last one.
        why: String,
    },
}

/// A reply, and which try it answers.
#[derive(Debug)]
pub struct Reply {
    /// The message.
    pub bytes: Vec<u8>,
    /// Which KDC was asked, and how.
    pub answered: Try,
}

/// Sends `request` until a KDC answers. The error says what happened at the last KDC.
pub(super) fn ask(mut delivery: Delivery, request: &[u8]) -> Result<Reply, String> {
    let until = Instant::now() + limits::KDC_DELIVERY_TIMEOUT;
    let mut sent: Vec<(UdpSocket, Try)> = Vec::new();
    let mut why = "there is none to ask".to_owned();
    let mut unavailable = None;
    let mut next = delivery.next_try();
    loop {
        let reply = match next {
            Some(one) if one.transport == KdcTransport::Udp => match send_datagram(request, one) {
                Ok(socket) => {
                    sent.push((socket, one));
                    receive_datagram(&mut sent, limits::KDC_NEXT_AFTER, until)
                }
                Err(error) => Err(describe(one, &error)),
            },
            Some(one) => match ask_by_tcp(request, one, until) {
                Ok(bytes) => Ok(Some(Reply { bytes, answered: one })),
                Err(error) => Err(describe(one, &error)),
            },
            // All have been asked; a datagram may still come.
            None if !sent.is_empty() => match receive_datagram(&mut sent, limits::KDC_REPLY_TIMEOUT, until) {
                Ok(None) => return unavailable.ok_or(why),
                reply => reply,
            },
            None => return unavailable.ok_or(why),
        };
        match reply {
            Ok(Some(reply)) => match KrbError::decode(&reply.bytes).map(|error| error.code) {
                Ok(ErrorCode::KRB_ERR_RESPONSE_TOO_BIG) => delivery.too_big_for_udp(reply.answered),
                Ok(ErrorCode::KDC_ERR_SVC_UNAVAILABLE) => unavailable = Some(reply),
                _ => return Ok(reply),
            },
            Ok(None) => {
                if let Some(one) = next {
                    why = describe(one, &io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => why = error,
        }
        if Instant::now() >= until {
            return unavailable.ok_or(why);
        }
        next = delivery.next_try();
    }
}

fn describe(one: Try, error: &io::Error) -> String {
    let transport = match one.transport {
        KdcTransport::Udp => "UDP",
        KdcTransport::Tcp => "TCP",
    };
    let why = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "it does not answer".to_owned(),
        _ => error.to_string(),
    };
    format!("{} by {transport}: {why}", SocketAddr::new(one.place.address, one.place.port))
}

fn send_datagram(request: &[u8], one: Try) -> io::Result<UdpSocket> {
    let any: IpAddr = match one.place.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Only its datagrams are received then, and an error if nobody listens there.
    socket.connect((one.place.address, one.place.port))?;
    socket.set_nonblocking(true)?;
    socket.send(request)?;
    Ok(socket)
}

/// Waits for a datagram on any of the sockets; `Ok(None)` if none comes in time. A socket that fails is removed.
fn receive_datagram(sent: &mut Vec<(UdpSocket, Try)>, wait: Duration, until: Instant) -> Result<Option<Reply>, String> {
    let until = until.min(Instant::now() + wait);
    let mut buffer = vec![0; limits::KDC_DATAGRAM_BYTES];
    loop {
        for place in 0..sent.len() {
            let (socket, one) = &sent[place];
            match socket.recv(&mut buffer) {
                Ok(length) => return Ok(Some(Reply { bytes: buffer[..length].to_vec(), answered: *one })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    let why = describe(*one, &error);
                    sent.remove(place);
                    return Err(why);
                }
            }
        }
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(None);
        }
        let rest = Timespec::try_from(rest).ok();
        let mut waits: Vec<PollFd<'_>> = sent.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::IN)).collect();
        // An interruption only means to look again.
        let _ = poll(&mut waits, rest.as_ref());
    }
}

fn ask_by_tcp(request: &[u8], one: Try, until: Instant) -> io::Result<Vec<u8>> {
    let until = until.min(Instant::now() + limits::KDC_REPLY_TIMEOUT);
    let address = SocketAddr::new(one.place.address, one.place.port);
    let mut stream = TcpStream::connect_timeout(&address, limits::KDC_NEXT_AFTER)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limits::KDC_REPLY_TIMEOUT))?;
    let length = u32::try_from(request.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&[&length.to_be_bytes()[..], request].concat())?;
    let mut length = [0; 4];
    read_exact(&mut stream, &mut length, || time_until(until))?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limits::KDC_MESSAGE_BYTES {
        return Err(io::Error::other("its reply is too long"));
    }
    let mut reply = vec![0; length];
    read_exact(&mut stream, &mut reply, || time_until(until))?;
    Ok(reply)
}
