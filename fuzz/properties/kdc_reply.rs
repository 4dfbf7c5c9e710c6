//! Nobody without the key can make a KDC's reply that yields a ticket for anything but what was asked for. The input is
//! a byte that says which request is answered, and the reply.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ntlm_gateway::kerberos::{
    ClientSecret, ClockSkew, Credential, Etype, EtypeSet, ExchangeInputs, ExchangeOptions, InitialExchange, Key,
    Keytab, KeytabEntry, KrbError, Principal, PrincipalName, ServiceExchange, Step, Timestamp,
};

/// KRB-ERROR, recorded from MIT's KDC.
const PREAUTH_REQUIRED: &[u8] = include_bytes!("../../src/kerberos/tests/recorded/preauth_required.der");
/// AS-REP, recorded.
const AS_REP: &[u8] = include_bytes!("../../src/kerberos/tests/recorded/as_rep.der");
/// TGS-REP, recorded.
const TGS_REP: &[u8] = include_bytes!("../../src/kerberos/tests/recorded/tgs_rep.der");

fn inputs() -> ExchangeInputs {
    ExchangeInputs { now: Timestamp::from_seconds(1_795_858_407), nonce: 0x1234_5678, confounder: [9; 16] }
}

fn options() -> ExchangeOptions {
    let hour = Duration::from_secs(3600);
    ExchangeOptions { etypes: EtypeSet::new(true), lifetime: hour, renewable: hour }
}

fn initial(secret: ClientSecret) -> InitialExchange {
    let client = Principal::parse("alice@EXAMPLE.TEST", None).expect("a name");
    let mut exchange = InitialExchange::new(client, secret, options(), ClockSkew::default());
    exchange.start(&inputs()).expect("there is a key");
    exchange
}

fn password() -> ClientSecret {
    ClientSecret::password("SecREt01")
}

/// A keytab with the key of the password. A reply chooses how long it takes to make a key from a password.
static KEYTAB: LazyLock<Arc<Keytab>> = LazyLock::new(|| {
    let principal = Principal::parse("alice@EXAMPLE.TEST", None).expect("a name");
    let key = Key::of_password(Etype::Aes256Sha1, "SecREt01", b"EXAMPLE.TESTalice", 4096);
    Arc::new(Keytab::new(vec![KeytabEntry { principal, kvno: 1, written: Timestamp::default(), key }]))
});

/// An exchange that has sent its time stamp. Making the key takes a while.
static LOGGING_ON: LazyLock<InitialExchange> = LazyLock::new(|| {
    let mut exchange = initial(password());
    exchange.receive(PREAUTH_REQUIRED, &inputs()).expect("the recorded error");
    exchange
});

/// The recorded ticket-granting ticket.
static TICKET_GRANTING: LazyLock<Credential> = LazyLock::new(ticket_granting);

fn ticket_granting() -> Credential {
    let mut exchange = LOGGING_ON.clone();
    match exchange.receive(AS_REP, &inputs()) {
        Ok(Step::Done(credential)) => credential,
        step => panic!("{step:?}"),
    }
}

/// The recorded ticket for the service, whose keys are recorded too.
pub fn service_ticket() -> Credential {
    let service = PrincipalName::service("HTTP", "proxy.test").expect("a name");
    let mut exchange = ServiceExchange::new(TICKET_GRANTING.clone(), service, None, options());
    exchange.start(&inputs());
    match exchange.receive(TGS_REP, &inputs()) {
        Ok(Step::Done(credential)) => credential,
        step => panic!("{step:?}"),
    }
}

/// Checks one reply.
pub fn check(input: &[u8]) {
    let Some((which, reply)) = input.split_first() else { return };
    if let Ok(error) = KrbError::decode(reply) {
        assert!(!error.to_string().chars().any(char::is_control));
    }
    match which % 3 {
        // To a request without a key, and to one with a key.
        0 => {
            // Few inputs, because these make a key from the password.
            let secret = if *which == u8::MAX { password() } else { ClientSecret::Keytab(Arc::clone(&KEYTAB)) };
            judge(initial(secret).receive(reply, &inputs()), "krbtgt/EXAMPLE.TEST@EXAMPLE.TEST");
        }
        1 => {
            let mut exchange = LOGGING_ON.clone();
            judge(exchange.receive(reply, &inputs()), "krbtgt/EXAMPLE.TEST@EXAMPLE.TEST");
        }
        _ => {
            let service = PrincipalName::service("HTTP", "proxy.test").expect("a name");
            let mut exchange = ServiceExchange::new(TICKET_GRANTING.clone(), service, None, options());
            exchange.start(&inputs());
            judge(exchange.receive(reply, &inputs()), "HTTP/proxy.test@EXAMPLE.TEST");
        }
    }
}

fn judge<E: std::fmt::Display>(step: Result<Step, E>, service: &str) {
    match step {
        Ok(Step::Done(credential)) => {
            assert_eq!(credential.client.to_string(), "alice@EXAMPLE.TEST");
            assert_eq!(credential.service.to_string(), service);
        }
        Ok(Step::Send(request)) => assert!(request.bytes.len() < 64 * 1024),
        Err(error) => assert!(!error.to_string().contains("SecREt01")),
    }
}

/// The recorded replies, to each request.
pub fn seeds() -> Vec<Vec<u8>> {
    let replies = [PREAUTH_REQUIRED, AS_REP, TGS_REP];
    [0, 1, 2, u8::MAX].into_iter().flat_map(|which| replies.map(|reply| [&[which], reply].concat())).collect()
}
