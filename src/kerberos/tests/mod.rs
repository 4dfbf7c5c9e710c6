//! A client and a service of our own, with a ticket that a KDC would make.

mod exchanges;

use super::acceptor::{AcceptError, accept};
use super::crypto::{Etype, Key, KeyUsage};
use super::der::{SEQUENCE, Writer, application, context};
use super::message::{Ticket, write_key};
use super::ticket::ServiceReplyError;
use super::*;

const NOW: u64 = 1_800_000_000;

fn client() -> Principal {
    Principal::parse("alice@EXAMPLE.COM", None).unwrap()
}

fn service() -> Principal {
    Principal { name: PrincipalName::service("HTTP", "proxy.test").unwrap(), realm: "EXAMPLE.COM".into() }
}

fn key(etype: Etype, byte: u8) -> Key {
    Key::new(etype, &vec![byte; etype.key_bytes()]).unwrap()
}

/// A ticket that ends in a minute, and the keytab of its service.
fn credential(etype: Etype) -> (Credential, Keytab) {
    let (long_term, session_key) = (key(etype, 1), key(etype, 2));
    let (start, end) = (Timestamp::from_seconds(NOW), Timestamp::from_seconds(NOW + 60));
    let mut part = Writer::with_capacity(512);
    part.element(application(3), |out| {
        out.element(SEQUENCE, |out| {
            out.flags(0, 0);
            out.element(context(1), |out| write_key(out, &session_key));
            out.string(2, "EXAMPLE.COM");
            out.element(context(3), |out| client().name.write(out));
            out.element(context(4), |out| out.element(SEQUENCE, |_| {}));
            out.time(5, start);
            out.time(7, end);
        });
    });
    let cipher = long_term.encrypt(KeyUsage::TICKET, &[3; 16], &part.into_secret());
    let ticket = Ticket::new(&service(), etype, 4, &cipher);
    let skew = ClockSkew::default();
    let (client, service) = (client(), service());
    let credential = Credential { client, service, start, end, renew_till: None, skew, ticket, session_key };
    (credential, keytab(etype, 4))
}

fn keytab(etype: Etype, kvno: u8) -> Keytab {
    let mut record = vec![0, 2];
    for text in ["EXAMPLE.COM", "HTTP", "proxy.test"] {
        record.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        record.extend(text.bytes());
    }
    record.extend([0, 0, 0, 3, 0, 0, 0, 0, kvno, 0, u8::try_from(etype.number()).unwrap(), 0]);
    record.push(u8::try_from(etype.key_bytes()).unwrap());
    record.extend(vec![1; etype.key_bytes()]);
    let length = u32::try_from(record.len()).unwrap().to_be_bytes();
    Keytab::parse(&[&[5, 2][..], &length, &record].concat()).unwrap()
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
    assert_eq!(at(NOW, &self::keytab(Etype::Aes256Sha1, 5)), Err(AcceptError::KeyVersion));
    assert_eq!(at(NOW, &self::keytab(Etype::Aes128Sha1, 4)), Err(AcceptError::NoKey));
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
    assert!(shown.contains("alice@EXAMPLE.COM") && !shown.contains("1, 1, 1"), "{shown}");
}

#[test]
fn a_clock_skew_is_applied_in_both_directions() {
    let (ours, kdcs) = (Timestamp::from_seconds(1000), Timestamp::from_seconds(700));
    let skew = ClockSkew::between(kdcs, ours);
    assert_eq!((skew.seconds(), skew.apply(ours), skew.undo(kdcs)), (-300, kdcs, ours));
}
