//! The server side of the handshake up to the CHALLENGE_MESSAGE (MS-NLMP 3.2.5.1.1). `verify` checks the response.

use super::av_pair::{AvId, TargetInfoBuilder};
use super::challenge::ChallengeMessage;
use super::file_time::FileTime;
use super::flags::NegotiateFlags;
use super::negotiate::NegotiateMessage;
use super::wire::{Charset, MessageError, Version, utf16le};

/// The contents of a CHALLENGE_MESSAGE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerChallengeOptions {
    /// ServerChallenge: eight random bytes, new for every message.
    pub server_challenge: [u8; 8],
    /// TargetName: the NetBIOS name of the domain, or of a stand-alone server. In OEM, characters beyond ASCII become
    /// `?`.
    pub target_name: String,
    /// Whether TargetName is the name of a domain, not of a server.
    pub target_is_domain: bool,
    /// TargetInfo, sent as given, even if malformed. With `None` it is omitted. See
    /// [`ServerChallengeOptions::target_info_of`].
    pub target_info: Option<Vec<u8>>,
    /// The flags that the server selects if they are offered.
    pub supported: NegotiateFlags,
    /// The flags that the server selects even if they are not offered, as some servers do.
    pub insisted: NegotiateFlags,
    /// Version; omitted unless the client sets VERSION.
    pub version: Option<Version>,
}

impl Default for ServerChallengeOptions {
    /// A server without TargetInfo that supports all features of NTLM 2.
    fn default() -> Self {
        Self {
            server_challenge: [0; 8],
            target_name: String::new(),
            target_is_domain: false,
            target_info: None,
            supported: NegotiateFlags::UNICODE
                | NegotiateFlags::OEM
                | NegotiateFlags::REQUEST_TARGET
                | NegotiateFlags::SIGN
                | NegotiateFlags::SEAL
                | NegotiateFlags::NTLM
                | NegotiateFlags::ALWAYS_SIGN
                | NegotiateFlags::EXTENDED_SESSIONSECURITY
                | NegotiateFlags::VERSION
                | NegotiateFlags::KEY_128
                | NegotiateFlags::KEY_EXCH
                | NegotiateFlags::KEY_56,
            insisted: NegotiateFlags::default(),
            version: Some(Version::WINDOWS_10),
        }
    }
}

impl ServerChallengeOptions {
    /// A TargetInfo in the order that Windows uses: NetBIOS domain and computer, DNS domain and computer, then the time
    /// if given. If the time is present, the client must send a MIC.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a name has more than 65,535 bytes.
    pub fn target_info_of(
        nb_domain: &str,
        nb_computer: &str,
        dns_domain: &str,
        dns_computer: &str,
        timestamp: Option<FileTime>,
    ) -> Result<Vec<u8>, MessageError> {
        let list = TargetInfoBuilder::new()
            .text(AvId::NbDomainName, nb_domain)?
            .text(AvId::NbComputerName, nb_computer)?
            .text(AvId::DnsDomainName, dns_domain)?
            .text(AvId::DnsComputerName, dns_computer)?;
        let list = match timestamp {
            Some(time) => list.bytes(AvId::Timestamp, &time.0.to_le_bytes())?,
            None => list,
        };
        Ok(list.finish())
    }
}

/// The CHALLENGE_MESSAGE that answers `negotiate`.
///
/// # Errors
/// [`MessageError`] if `negotiate` is malformed; [`MessageError::TooLong`] if TargetName or TargetInfo have more than
/// 65,535 bytes.
pub fn challenge(negotiate: &[u8], options: &ServerChallengeOptions) -> Result<Vec<u8>, MessageError> {
    let offer = NegotiateMessage::decode(negotiate)?;
    let flags = selected(offer.flags, options);
    let target_name = match flags.charset() {
        _ if !flags.contains(NegotiateFlags::REQUEST_TARGET) => Vec::new(),
        Charset::Unicode => utf16le(&options.target_name),
        Charset::Oem => {
            let ascii = |character| u8::try_from(character).ok().filter(u8::is_ascii).unwrap_or(b'?');
            options.target_name.chars().map(ascii).collect()
        }
    };
    ChallengeMessage {
        flags,
        server_challenge: options.server_challenge,
        target_name: &target_name,
        target_info: options.target_info.as_deref(),
        version: options.version.filter(|_| flags.contains(NegotiateFlags::VERSION)),
    }
    .encode()
}

/// The offered flags that are supported and the server's own, with a single charset and kind of session security.
fn selected(offered: NegotiateFlags, options: &ServerChallengeOptions) -> NegotiateFlags {
    let mut flags = offered & options.supported | options.insisted;
    if flags.contains(NegotiateFlags::UNICODE) {
        flags = flags - NegotiateFlags::OEM;
    }
    if flags.contains(NegotiateFlags::EXTENDED_SESSIONSECURITY) {
        flags = flags - NegotiateFlags::LM_KEY;
    }
    if options.target_info.is_some() {
        flags |= NegotiateFlags::TARGET_INFO;
    }
    if flags.contains(NegotiateFlags::REQUEST_TARGET) {
        flags |= if options.target_is_domain {
            NegotiateFlags::TARGET_TYPE_DOMAIN
        } else {
            NegotiateFlags::TARGET_TYPE_SERVER
        };
    }
    flags
}
