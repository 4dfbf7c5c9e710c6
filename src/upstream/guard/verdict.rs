//! What the answer to a logon attempt says about the secret.

/// How a logon attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The upstream answered with this status, which is not a 407 of its own.
    Status(u16),
    /// 407 with Proxy-Authenticate.
    Refused,
    /// 407 with a new challenge, to a challenge that was kept for a while: it may have been too old.
    Stale,
    /// The upstream closed or reset the connection without an answer.
    Closed,
    /// No answer came in time, or what came is no HTTP.
    Nothing,
}

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The upstream has looked at the secret and taken it.
    Accepted,
    /// The upstream has looked at the secret and rejected it.
    Refused,
    /// As [`Verdict::Refused`], but it says nothing about the destination.
    Stale,
    /// Some proxies reject a secret like this; a destination's fault looks the same.
    Closed,
    /// The request went through, with or without a look at the secret: a wrong one has not been tried.
    Passed,
    /// Nothing is known.
    Undecided,
}

/// `demands` says whether the destination is known to demand authentication: an exempt one is answered without a look at the
/// secret. `challenged` says that it has demanded it for this very request.
pub(super) fn of(answer: Answer, demands: bool, challenged: bool) -> Verdict {
    match answer {
        // A proxy that has asked with 407 does not reject with 401: it is the origin that asks now. Origins that authenticate by NTLM say
        // nothing else on a fresh connection.
        Answer::Status(401) if challenged => Verdict::Accepted,
        // A proxy that rejects a secret says 407. Of the other statuses only those that come from the origin, or from a cache, show that
        // the proxy has let the request through; the rest may have been given before the secret was looked at.
        Answer::Status(101 | 200..=299 | 304 | 404 | 405 | 410 | 412 | 416) if demands => Verdict::Accepted,
        Answer::Status(101 | 200..=299 | 304 | 404 | 405 | 410 | 412 | 416) => Verdict::Passed,
        Answer::Status(_) | Answer::Nothing => Verdict::Undecided,
        Answer::Refused => Verdict::Refused,
        Answer::Stale => Verdict::Stale,
        Answer::Closed => Verdict::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statuses_that_come_from_behind_the_authentication_accept() {
        for status in 100..=599 {
            let passed = matches!(status, 101 | 200..=299 | 304 | 404 | 405 | 410 | 412 | 416);
            let expected = if passed { [Verdict::Accepted, Verdict::Passed] } else { [Verdict::Undecided; 2] };
            assert_eq!([true, false].map(|demands| of(Answer::Status(status), demands, false)), expected, "{status}");
        }
    }

    #[test]
    fn refusals_and_closes_do_not_depend_on_the_destination() {
        for demands in [false, true] {
            assert_eq!(of(Answer::Refused, demands, demands), Verdict::Refused);
            assert_eq!(of(Answer::Stale, demands, demands), Verdict::Stale);
            assert_eq!(of(Answer::Closed, demands, demands), Verdict::Closed);
            assert_eq!(of(Answer::Nothing, demands, demands), Verdict::Undecided);
        }
    }

    #[test]
    fn an_origins_401_accepts_where_the_proxy_had_asked_for_this_very_request() {
        assert_eq!(of(Answer::Status(401), true, true), Verdict::Accepted);
        assert_eq!(of(Answer::Status(401), true, false), Verdict::Undecided);
    }
}
