//! The request that gets a pre-challenged connection its challenge.
//!
//! It contains nothing from a client, neither target nor field: an upstream that asks for no credentials may carry it
//! out. Its destination does not exist (`.invalid`, RFC 6761 §6.4) unless the operator has named one for checks.

use std::sync::Arc;

use crate::auth::Request;
use crate::forward::{ForwardOptions, ForwardRequest};
use crate::http::{FieldStorage, RequestHead};

/// A name that never resolves, and that says in the upstream's log where the request came from.
const HOST: &str = "ntlm-gateway.invalid";

/// The kinds of request, in the order in which they are tried until one is answered with a challenge: an upstream may
/// have rules that answer some before it asks for credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ChallengeRequest {
    /// A tunnel to a destination that does not exist.
    #[default]
    Tunnel,
    /// A plain HTTP request to the same.
    Plain,
    /// A tunnel to the destination that the configuration names for checks.
    Checked,
}

impl ChallengeRequest {
    /// The kind to try after this one; the first again after the last.
    pub(super) fn next(self, check_target: Option<&str>) -> ChallengeRequest {
        match self {
            ChallengeRequest::Tunnel => ChallengeRequest::Plain,
            ChallengeRequest::Plain if check_target.is_some() => ChallengeRequest::Checked,
            ChallengeRequest::Plain | ChallengeRequest::Checked => ChallengeRequest::Tunnel,
        }
    }

    /// The request. `check_target` is `host:port`.
    pub(super) fn request(self, check_target: Option<&str>) -> Request {
        let nowhere = || Request::connect(format!("{HOST}:443"), Vec::new());
        match (self, check_target) {
            (ChallengeRequest::Checked, Some(target)) => Request::connect(target, Vec::new()),
            (ChallengeRequest::Plain, _) => plain().unwrap_or_else(nowhere),
            (ChallengeRequest::Tunnel | ChallengeRequest::Checked, _) => nowhere(),
        }
    }
}

fn plain() -> Option<Request> {
    let head = format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(head.as_bytes(), &mut storage).ok()?;
    let request = ForwardRequest::of(&head, &ForwardOptions { via: None }).ok()?;
    Some(Request::Forward(Arc::new(request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_tried_in_turn_and_none_names_a_clients_destination() {
        let nowhere = [("CONNECT", "ntlm-gateway.invalid:443"), ("GET", "ntlm-gateway.invalid:80")];
        for check_target in [None, Some("example.com:443")] {
            let mut kind = ChallengeRequest::default();
            let mut asked = Vec::new();
            loop {
                let request = kind.request(check_target);
                asked.push((request.method().to_owned(), request.origin().to_owned()));
                kind = kind.next(check_target);
                if kind == ChallengeRequest::default() {
                    break;
                }
            }
            let expected = nowhere.into_iter().chain(check_target.map(|target| ("CONNECT", target)));
            let expected: Vec<_> = expected.map(|(method, origin)| (method.to_owned(), origin.to_owned())).collect();
            assert_eq!(asked, expected);
        }
    }
}
