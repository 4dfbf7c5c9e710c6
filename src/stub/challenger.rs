//! The CHALLENGE_MESSAGE of a personality.

use super::behaviour::{MessageStyle, TargetInfo};
use super::setup::ServerNames;
use crate::ntlm::{FileTime, MessageError, ServerChallengeOptions, challenge};

/// The position of TargetInfo's offset in a CHALLENGE_MESSAGE (MS-NLMP 2.2.1.2).
const TARGET_INFO_OFFSET_AT: usize = 44;

/// The size of MsvAvEOL, in bytes.
const EOL_BYTES: usize = 4;

/// MsvAvDnsTreeName, which pads a TargetInfo.
const PADDING_ID: u16 = 5;

/// The CHALLENGE_MESSAGE that answers `negotiate` in a personality's style.
///
/// # Errors
/// If `negotiate` is malformed.
pub(super) fn challenge_in_style(
    negotiate: &[u8],
    style: &MessageStyle,
    names: &ServerNames,
    server_challenge: [u8; 8],
    now: FileTime,
) -> Result<Vec<u8>, MessageError> {
    let defaults = ServerChallengeOptions::default();
    let options = ServerChallengeOptions {
        server_challenge,
        target_name: names.domain.clone(),
        target_is_domain: true,
        target_info: target_info(style.target_info, names, now)?,
        supported: defaults.supported - style.unsupported,
        insisted: style.insisted,
        ..defaults
    };
    let mut message = challenge(negotiate, &options)?;
    if style.target_info == TargetInfo::Elsewhere
        && let Some(offset) = message.get_mut(TARGET_INFO_OFFSET_AT..TARGET_INFO_OFFSET_AT + 4)
    {
        offset.copy_from_slice(&0x7fff_fff0_u32.to_le_bytes());
    }
    Ok(message)
}

fn target_info(kind: TargetInfo, names: &ServerNames, now: FileTime) -> Result<Option<Vec<u8>>, MessageError> {
    let time = (kind == TargetInfo::NamesAndTime).then_some(now);
    let ServerNames { domain, computer, dns_domain, dns_computer } = names;
    let mut list = ServerChallengeOptions::target_info_of(domain, computer, dns_domain, dns_computer, time)?;
    match kind {
        TargetInfo::Absent => return Ok(None),
        TargetInfo::Names | TargetInfo::NamesAndTime | TargetInfo::Elsewhere => {}
        TargetInfo::NoEol => list.truncate(list.len().saturating_sub(EOL_BYTES)),
        TargetInfo::Padded(length) => {
            let mut pair = [PADDING_ID.to_le_bytes(), length.to_le_bytes()].concat();
            pair.extend(b"x\0".iter().cycle().take(usize::from(length)));
            list.splice(list.len().saturating_sub(EOL_BYTES)..list.len().saturating_sub(EOL_BYTES), pair);
        }
    }
    Ok(Some(list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ntlm::{AvPairs, ChallengeMessage, NegotiateFlags, NegotiateMessage};
    use crate::stub::Personality;

    fn message_of(personality: Personality) -> Vec<u8> {
        let negotiate = NegotiateMessage {
            flags: NegotiateFlags::from_bits(0xe208_8297),
            domain: None,
            workstation: None,
            version: None,
        };
        let (style, names) = (personality.behaviour().message, ServerNames::new("CORP", "PROXY"));
        challenge_in_style(&negotiate.encode().unwrap(), &style, &names, *b"nonce-8b", FileTime(1)).unwrap()
    }

    #[test]
    fn a_plain_challenge_contains_names_and_time() {
        let message = message_of(Personality::Plain);
        let decoded = ChallengeMessage::decode(&message).unwrap();
        assert_eq!(decoded.target_name_text().unwrap(), "CORP");
        assert_eq!(AvPairs::new(decoded.target_info.unwrap()).map(Result::unwrap).count(), 5);
    }

    #[test]
    fn odd_challenges_are_odd_as_described() {
        assert!(ChallengeMessage::decode(&message_of(Personality::LyingLengths)).is_err());

        let message = message_of(Personality::NoEol);
        let decoded = ChallengeMessage::decode(&message).unwrap();
        assert!(AvPairs::new(decoded.target_info.unwrap()).any(|pair| pair.is_err()));

        let message = message_of(Personality::HugeTargetInfo);
        let decoded = ChallengeMessage::decode(&message).unwrap();
        assert!(decoded.target_info.unwrap().len() > 65_000);
        assert!(AvPairs::new(decoded.target_info.unwrap()).all(|pair| pair.is_ok()));

        let message = message_of(Personality::OemOnly);
        let decoded = ChallengeMessage::decode(&message).unwrap();
        assert!(!decoded.flags.contains(NegotiateFlags::UNICODE));
        assert_eq!(decoded.target_name, b"CORP");

        let message = message_of(Personality::NoTargetInfo);
        assert_eq!(ChallengeMessage::decode(&message).unwrap().target_info, None);
    }
}
