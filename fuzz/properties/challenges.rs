//! Proxy-Authenticate: every challenge is a scheme with a token or with parameters, and the same after encoding. Each
//! line of the input is the value of one field.

use ntlm_gateway::http::{
    Challenge, FieldStorage, ResponseHead, TOKEN_LIMIT_BYTES, TokenError, challenges, decode_token, find_challenge,
    offered_schemes,
};

/// Checks the challenges of one head.
pub fn check(input: &[u8]) {
    with_challenges(input, |found, head| {
        let room: usize = head.fields.iter().map(|field| field.value.len()).sum();
        let taken: usize = found.iter().map(|challenge| challenge.scheme.len()).sum();
        assert!(taken <= room, "challenges overlap");
        for challenge in found {
            check_challenge(challenge);
        }
        check_appended(input, found);
        for scheme in ["NTLM", "negotiate", "Basic"] {
            let of_scheme = || found.iter().filter(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
            let expected = of_scheme().find(|challenge| challenge.token68.is_some()).or_else(|| of_scheme().next());
            assert_eq!(find_challenge(&head.fields, scheme).as_ref(), expected);
        }
        let text = offered_schemes(&head.fields);
        assert!(text.len() <= 8 * (32 + 2) + 3, "a log text of {} bytes", text.len());
        assert!(!text.contains(|letter: char| letter.is_control()));
        assert_eq!(text == "none", found.is_empty() || text == "none" && found[0].scheme == "none");
    });
}

fn with_challenges(lines: &[u8], look: impl FnOnce(&[Challenge<'_>], &ResponseHead<'_>)) {
    let mut bytes = b"HTTP/1.1 407 Denied\r\n".to_vec();
    for line in lines.split(|&byte| byte == b'\n') {
        bytes.extend_from_slice(b"Proxy-Authenticate: ");
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let mut storage = FieldStorage::new();
    if let Ok(head) = ResponseHead::parse(&bytes, &mut storage) {
        let found: Vec<Challenge<'_>> = challenges(&head.fields).collect();
        look(&found, &head);
    }
}

/// A challenge after a comma outside quotes is found, whatever precedes it.
fn check_appended(lines: &[u8], found: &[Challenge<'_>]) {
    let last = lines.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    let (mut inside, mut bytes) = (false, last.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => inside = !inside,
            b'\\' if inside => drop(bytes.next()),
            _ => {}
        }
    }
    if !inside {
        let more = [lines, b", NTLM TlRMTVNTUAA="].concat();
        with_challenges(&more, |more, _| {
            let (last, before) = more.split_last().expect("one was added");
            assert_eq!(before, found);
            assert_eq!((last.scheme, last.token68), ("NTLM", Some("TlRMTVNTUAA=")));
        });
    }
}

fn check_challenge(challenge: &Challenge<'_>) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!challenge.scheme.is_empty() && challenge.scheme.bytes().all(is_token));
    assert!(challenge.is(&challenge.scheme.to_uppercase()));
    assert_eq!(challenge.is_bare(), challenge.token68.is_none() && challenge.params.is_empty());
    let shown = format!("{challenge:?}");
    let mut again = challenge.scheme.as_bytes().to_vec();
    if let Some(token) = challenge.token68 {
        assert!(challenge.params.is_empty());
        assert!(token.len() < 12 || challenge.scheme.contains(token) || !shown.contains(token), "a token is shown");
        again.push(b' ');
        again.extend_from_slice(token.as_bytes());
        match decode_token(token) {
            Ok(message) => assert!(message.len() <= token.len()),
            Err(TokenError::TooLong { .. }) => assert!(token.len() > TOKEN_LIMIT_BYTES),
            Err(TokenError::NotBase64) => {}
        }
    } else if !challenge.params.is_empty() {
        again.push(b' ');
        again.extend_from_slice(challenge.params);
    }
    with_challenges(&again, |found, _| assert_eq!(found, [*challenge], "{shown} changes when it is alone"));
}

/// Typical offers of proxies, and difficult ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "Negotiate \nKerberos \nNTLM ",
        "Negotiate, Basic realm=\"a, b\", NTLM TlRMTVNTUAACAAAA",
        "NTLM TlRMTVNTUAACAAAA==\nNTLM",
        "Digest realm=\"x\", nonce=\"a\\\"b\", qop=\"auth, auth-int\", Basic",
        "Basic realm = unquoted , charset=\"UTF-8\",, ,NTLM",
        "NTLM=x, =, \"loose\", Negotiate YIIB+/=, Foo a= , b=c",
        "N(TLM, Basic realm=\"a, b\", (",
        "Basic realm=\"a\\\", b\", Digest x=\"\\\\\", y",
        "a,b,c,d,e,f,g,h,i,j",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ, Basic realm=\"unterminated, NTLM",
    ];
    let mut seeds: Vec<Vec<u8>> = lines.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.push(format!("NTLM {}", super::trace::CHALLENGE).into_bytes());
    seeds
}
