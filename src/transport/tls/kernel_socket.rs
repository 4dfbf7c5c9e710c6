//! What a socket is asked when the kernel encrypts and decrypts its records (Linux, Documentation/networking/tls.rst).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg, setsockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use socket2::{MsgHdr, SockRef};
use zeroize::Zeroize;

pub use nix::sys::socket::TlsGetRecordType as RecordType;

/// The type of records with alerts (RFC 8446 §5.1).
pub const ALERT: u8 = 21;

/// The keys of one direction, as the kernel takes them.
pub struct Keys(TlsCryptoInfo);

impl Keys {
    /// The keys for the records from `sequence` on; `None` for a version or a cipher that is not left to the kernel.
    ///
    /// In TLS 1.2 with AES-GCM the kernel counts the explicit part of the nonce up from its first value, while rustls
    /// combines that value with the record's number. Records of rustls were sent with the same key, so the kernel gets
    /// a value with another first byte: counting up never reaches a nonce that rustls has used.
    pub fn new(version: ProtocolVersion, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Keys> {
        let (version, is_1_2) = match version {
            ProtocolVersion::TLSv1_2 => (libc::TLS_1_2_VERSION, true),
            ProtocolVersion::TLSv1_3 => (libc::TLS_1_3_VERSION, false),
            _ => return None,
        };
        let nonce = |iv: &[u8]| -> Option<([u8; 4], [u8; 8])> {
            let (salt, explicit) = iv.split_first_chunk::<4>()?;
            let explicit: [u8; 8] = explicit.try_into().ok()?;
            Some((*salt, if is_1_2 { [!explicit[0], 0, 0, 0, 0, 0, 0, 0] } else { explicit }))
        };
        let rec_seq = sequence.to_be_bytes();
        Some(Keys(match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                let info = libc::tls_crypto_info { version, cipher_type: libc::TLS_CIPHER_AES_GCM_128 };
                let ((salt, iv), key) = (nonce(iv.as_ref())?, key.as_ref().try_into().ok()?);
                TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 { info, iv, key, salt, rec_seq })
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                let info = libc::tls_crypto_info { version, cipher_type: libc::TLS_CIPHER_AES_GCM_256 };
                let ((salt, iv), key) = (nonce(iv.as_ref())?, key.as_ref().try_into().ok()?);
                TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 { info, iv, key, salt, rec_seq })
            }
            _ => return None,
        }))
    }

    /// Lets the kernel encrypt what is written to the socket.
    pub fn encrypt(&self, socket: &TcpStream) -> io::Result<()> {
        Ok(setsockopt(socket, TcpTlsTx, &self.0)?)
    }

    /// Lets the kernel decrypt what is read from the socket, whose next byte begins a record.
    pub fn decrypt(&self, socket: &TcpStream) -> io::Result<()> {
        Ok(setsockopt(socket, TcpTlsRx, &self.0)?)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        match &mut self.0 {
            TlsCryptoInfo::Aes128Gcm(info) => info.key.zeroize(),
            TlsCryptoInfo::Aes256Gcm(info) => info.key.zeroize(),
            TlsCryptoInfo::Chacha20Poly1305(info) => info.key.zeroize(),
        }
    }
}

/// Loads the kernel's TLS into a connected socket. Without keys the socket works as before.
pub fn attach(socket: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(socket, TcpUlp::default(), b"tls")?)
}

/// Room for one control message with a byte, aligned as its header demands.
#[repr(align(8))]
struct Control([u8; 64]);

/// Reads once what the kernel has decrypted; all of it has one type. Zero bytes of data are the end of the connection.
pub fn receive(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<(RecordType, usize)> {
    let mut control = Control([0; 64]);
    let mut buffers = [IoSliceMut::new(buffer)];
    let message: RecvMsg<'_, '_, ()> =
        recvmsg(socket.as_raw_fd(), &mut buffers, Some(&mut control.0), MsgFlags::MSG_DONTWAIT)?;
    let record_type = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::TlsGetRecordType(record_type) => Some(record_type),
        _ => None,
    });
    Ok((record_type.unwrap_or(RecordType::ApplicationData), message.bytes))
}

/// Sends a record of another type than data.
pub fn send_record(socket: &TcpStream, record_type: u8, payload: &[u8]) -> io::Result<()> {
    let control = control_message(record_type);
    let buffers = [IoSlice::new(payload)];
    let message = MsgHdr::new().with_buffers(&buffers).with_control(&control);
    SockRef::from(socket).sendmsg(&message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)?;
    Ok(())
}

/// A control message with the type of the record that is sent (cmsg(3)): its length, level, type and data, padded.
fn control_message(record_type: u8) -> Vec<u8> {
    let word = size_of::<usize>();
    let length = word + 2 * size_of::<libc::c_int>() + 1;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&libc::SOL_TLS.to_ne_bytes());
    bytes.extend_from_slice(&libc::TLS_SET_RECORD_TYPE.to_ne_bytes());
    bytes.push(record_type);
    bytes.resize(length.next_multiple_of(word), 0);
    bytes
}

/// Whether the socket has room for more than what was written to it and is still on its way into its buffer. Otherwise
/// an event comes once it has.
pub fn has_room(socket: &TcpStream) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut sockets, Some(&now)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(iv: [u8; 12]) -> [ConnectionTrafficSecrets; 2] {
        let key = || rustls::crypto::cipher::AeadKey::from([7; 32]);
        let iv = || rustls::crypto::cipher::Iv::from(iv);
        [
            ConnectionTrafficSecrets::Aes256Gcm { key: key(), iv: iv() },
            ConnectionTrafficSecrets::Chacha20Poly1305 { key: key(), iv: iv() },
        ]
    }

    fn parts(keys: &Keys) -> (u16, [u8; 4], [u8; 8], [u8; 8]) {
        match &keys.0 {
            TlsCryptoInfo::Aes256Gcm(info) => (info.info.version, info.salt, info.iv, info.rec_seq),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tls_1_3_keys_continue_with_the_nonces_of_rustls() {
        let [aes, _] = secrets([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let keys = Keys::new(ProtocolVersion::TLSv1_3, 0x0102, &aes).unwrap();
        assert_eq!(parts(&keys), (0x0304, [1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12], [0, 0, 0, 0, 0, 0, 1, 2]));
    }

    #[test]
    fn tls_1_2_keys_never_repeat_a_nonce_of_rustls() {
        let iv = [1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let [aes, _] = secrets(iv);
        let keys = Keys::new(ProtocolVersion::TLSv1_2, 3, &aes).unwrap();
        let (version, salt, first, sequence) = parts(&keys);
        assert_eq!((version, salt, sequence), (0x0303, [1, 2, 3, 4], [0, 0, 0, 0, 0, 0, 0, 3]));
        let of_rustls = |sequence: u64| u64::from_be_bytes(iv[4..].try_into().unwrap()) ^ sequence;
        let of_kernel = |count: u64| u64::from_be_bytes(first) + count;
        // Neither sends more than 2^56 records.
        for count in [0, 1, 1 << 24, (1 << 56) - 1] {
            assert_eq!((of_rustls(count) >> 56, of_kernel(count) >> 56), (0xff, 0));
        }
    }

    #[test]
    fn ciphers_and_versions_that_are_not_for_the_kernel_have_no_keys() {
        let [aes, chacha] = secrets([0; 12]);
        assert!(Keys::new(ProtocolVersion::TLSv1_3, 0, &chacha).is_none());
        assert!(Keys::new(ProtocolVersion::TLSv1_1, 0, &aes).is_none());
    }

    #[test]
    fn a_control_message_has_the_layout_of_the_kernel() {
        let bytes = control_message(ALERT);
        let word = size_of::<usize>();
        assert_eq!(bytes.len() % word, 0);
        assert_eq!(bytes[..word], (word + 9).to_ne_bytes());
        assert_eq!(bytes[word..word + 4], 282_i32.to_ne_bytes());
        assert_eq!(bytes[word + 4..word + 8], 1_i32.to_ne_bytes());
        assert_eq!(bytes[word + 8], ALERT);
    }
}
