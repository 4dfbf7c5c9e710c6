//! A client and a service of our own, with a ticket that a KDC would make.

mod exchanges;
pub(crate) mod issue;
mod samba;

use std::time::Duration;

use super::acceptor::{AcceptError, accept};
use super::crypto::{DERIVATIONS, Etype};
use super::exchange::{ExchangeInputs, ExchangeOptions};
use super::ticket::ServiceReplyError;
use super::*;
use issue::{IssuingService, http_service};

const NOW: u64 = 1_800_000_000;

/// The nonce of the recorded requests.
const RECORDED_NONCE: u32 = 0x1234_5678;

/// What the recorded requests were made with, `recorded` seconds after 1970.
fn recorded_inputs(recorded: u64) -> ExchangeInputs {
    ExchangeInputs { now: Timestamp::from_seconds(recorded), nonce: RECORDED_NONCE, confounder: [9; 16] }
}

/// What the recorded requests asked for.
fn recorded_options() -> ExchangeOptions {
    let (lifetime, renewable) = (Duration::from_secs(36_000), Duration::from_secs(86_400));
    ExchangeOptions { etypes: EtypeSet::new(false), lifetime, renewable }
}

fn client() -> Principal {
    Principal::parse("alice@EXAMPLE.COM", None).unwrap()
}

fn service(etype: Etype, kvno: u8) -> IssuingService {
    IssuingService { principal: http_service("proxy.test", "EXAMPLE.COM"), etype, kvno }
}

/// A ticket that ends in a minute, and the keytab of its service.
fn credential(etype: Etype) -> (Credential, Keytab) {
    let (start, end) = (Timestamp::from_seconds(NOW), Timestamp::from_seconds(NOW + 60));
    (service(etype, 4).issue(&client(), 2, start, end), service(etype, 4).keytab())
}

fn inputs(seconds: u64) -> ApInputs {
    ApInputs {
        time: Timestamp::from_micros(seconds * 1_000_000 + 123_456),
        confounder: [5; 16],
        subkey: [6; 32],
        sequence_number: u32::MAX,
        channel_bindings: Some([7; 16]),
    }
}

#[test]
fn a_service_accepts_the_token_and_the_client_accepts_its_answer() {
    for etype in Etype::ALL {
        let (credential, keytab) = credential(etype);
        let token = credential.token(&inputs(NOW));
        let accepted = accept(&token.bytes, &keytab, Timestamp::from_seconds(NOW), &[8; 16]).unwrap();
        assert_eq!((accepted.client, accepted.channel_bindings), (client(), [7; 16]), "{etype}");
        assert_eq!(accepted.time.subsec_micros(), 123_456);
        let reply = accepted.reply.unwrap();
        assert_eq!(token.expected.verify(&reply), Ok(()));
        // The answer to another token with the same ticket.
        let other = credential.token(&inputs(NOW + 1));
        let verdict = other.expected.verify(&reply);
        assert_eq!(verdict, Err(ServiceReplyError::Reply(ApReplyError::OtherRequest)));
        for at in 0..reply.len() {
            let mut changed = reply.clone();
            changed[at] ^= 1;
            // A bit of the number of a version says nothing, and neither does the kind of the mechanism's name.
            let is_same = token.expected.verify(&changed).is_ok();
            assert!(!is_same || at < 40, "{at}");
            assert!(token.expected.verify(&reply[..at]).is_err());
        }
    }
}

/// Deriving them takes about as long as the rest of a token.
#[test]
fn keys_for_tokens_are_derived_once_for_each_ticket() {
    for etype in Etype::ALL {
        let (credential, keytab) = credential(etype);
        let before = DERIVATIONS.get();
        credential.token(&inputs(NOW));
        let first_derivations = DERIVATIONS.get() - before;
        let derivations = |tokens: u64| {
            let replies = (0..tokens).map(|number| {
                let token = credential.clone().token(&inputs(NOW + number));
                let now = Timestamp::from_seconds(NOW);
                (token.expected, accept(&token.bytes, &keytab, now, &[8; 16]).unwrap().reply.unwrap())
            });
            let replies: Vec<_> = replies.collect();
            let before = DERIVATIONS.get();
            (0..tokens).for_each(|number| drop(credential.clone().token(&inputs(NOW + number))));
            replies.iter().for_each(|(expected, reply)| expected.verify(reply).unwrap());
            DERIVATIONS.get() - before
        };
        // The first token has been made by then.
        assert_eq!((derivations(1), derivations(50)), (1, 0), "{etype}");
        assert_eq!(first_derivations, 1, "{etype}");
    }
}

#[test]
fn tokens_that_are_late_changed_or_for_others_are_rejected() {
    let (credential, keytab) = credential(Etype::Aes256Sha1);
    let token = credential.token(&inputs(NOW)).bytes;
    let at = |seconds: u64, keytab: &Keytab| {
        accept(&token, keytab, Timestamp::from_seconds(seconds), &[8; 16]).map(|accepted| accepted.client)
    };
    assert_eq!(at(NOW + 299, &keytab), Ok(client()));
    assert_eq!(at(NOW + 301, &keytab), Err(AcceptError::Skew));
    assert_eq!(at(NOW - 301, &keytab), Err(AcceptError::Skew));
    assert_eq!(at(NOW, &service(Etype::Aes256Sha1, 5).keytab()), Err(AcceptError::KeyVersion));
    assert_eq!(at(NOW, &service(Etype::Aes128Sha1, 4).keytab()), Err(AcceptError::NoKey));
    let late = credential.token(&inputs(NOW + 400)).bytes;
    let now = Timestamp::from_seconds(NOW + 400);
    assert_eq!(accept(&late, &keytab, now, &[8; 16]).map(|_| ()), Err(AcceptError::Expired));
    for end in 0..token.len() {
        assert!(accept(&token[..end], &keytab, Timestamp::from_seconds(NOW), &[8; 16]).is_err());
    }
}

#[test]
fn debug_shows_neither_keys_nor_tickets() {
    let (credential, keytab) = credential(Etype::Aes256Sha1);
    let token = credential.token(&inputs(NOW));
    let shown = format!("{credential:?} {:?} {:?} {keytab:?}", token.expected, credential.ticket);
    let has_key = ["2, 2, 2", "4, 4, 4"].iter().any(|bytes| shown.contains(bytes));
    assert!(shown.contains("alice@EXAMPLE.COM") && !has_key, "{shown}");
}

#[test]
fn a_clock_skew_is_applied_in_both_directions() {
    let (ours, kdcs) = (Timestamp::from_seconds(1000), Timestamp::from_seconds(700));
    let skew = ClockSkew::between(kdcs, ours);
    assert_eq!((skew.seconds(), skew.apply(ours), skew.undo(kdcs)), (-300, kdcs, ours));
}
