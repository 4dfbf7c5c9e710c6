//! Exchanges with the recorded replies of another real KDC: a domain controller of Samba 4.17, whose KDC is Heimdal's.
//! The account is `svc-small` with a known password and another user principal name; its tickets have a PAC.

use super::super::exchange::{ClientSecret, ExchangeInputs, InitialExchange, RequestKind, ServiceExchange, Step};
use super::super::*;
use super::{recorded_inputs, recorded_options};

/// KRB-ERROR: pre-authentication is required. It also offers kinds of it that the gateway does not have.
const PREAUTH_REQUIRED: &[u8] = include_bytes!("recorded/samba_preauth_required.der");
/// AS-REP to a request with [`super::RECORDED_NONCE`].
const AS_REP: &[u8] = include_bytes!("recorded/samba_as_rep.der");
/// TGS-REP to a request with [`super::RECORDED_NONCE`].
const TGS_REP: &[u8] = include_bytes!("recorded/samba_tgs_rep.der");
/// The keys of the service.
const KEYTAB: &[u8] = include_bytes!("recorded/samba_http.keytab");
/// When they were recorded.
const RECORDED: u64 = 1_795_872_522;

fn inputs() -> ExchangeInputs {
    recorded_inputs(RECORDED)
}

#[test]
fn the_replies_of_a_domain_controller_lead_to_a_ticket_under_the_accounts_own_name() {
    let client = Principal::parse("small.account@partner.example@CORP.EXAMPLE", None).unwrap();
    let secret = ClientSecret::password("SecREt01");
    let mut logon = InitialExchange::new(client, secret, recorded_options(), ClockSkew::default());
    logon.start(&inputs()).unwrap();
    let step = logon.receive(PREAUTH_REQUIRED, &inputs()).unwrap();
    assert!(matches!(step, Step::Send(KdcRequest { kind: RequestKind::Logon(KeyVersion::Password), .. })), "{step:?}");
    let step = logon.receive(AS_REP, &inputs()).unwrap();
    let Step::Done(ticket_granting) = step else { panic!("{step:?}") };
    assert_eq!(ticket_granting.client.to_string(), "svc-small@CORP.EXAMPLE");
    let service = PrincipalName::service("HTTP", "proxy.corp.example").unwrap();
    let mut exchange = ServiceExchange::new(ticket_granting, service, None, recorded_options());
    exchange.start(&inputs());
    let step = exchange.receive(TGS_REP, &inputs()).unwrap();
    let Step::Done(ticket) = step else { panic!("{step:?}") };
    let token = ticket.token(&super::inputs(RECORDED));
    let keytab = Keytab::parse(KEYTAB).unwrap();
    let accepted = accept(&token.bytes, &keytab, Timestamp::from_seconds(RECORDED), &[1; 16]).unwrap();
    assert_eq!(accepted.client.to_string(), "svc-small@CORP.EXAMPLE");
    // More than names and keys: the account's group memberships.
    assert!(TGS_REP.len() > 1200, "{}", TGS_REP.len());
}
