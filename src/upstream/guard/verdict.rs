//! What the answer to a logon attempt says about the secret.

/// How a logon attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The upstream answered with this status, which is not a 407 of its own.
    Status(u16),
    /// 407 with Proxy-Authenticate.
    Refused,
    /// 407 with a new challenge, after the attempt answered a challenge that had been kept for a while and may have
    /// been too old.
    Stale,
    /// The upstream closed or reset the connection without an answer.
    Closed,
    /// No answer came in time, or what came is not HTTP.
    Nothing,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The upstream has checked the secret and accepted it.
    Accepted,
    /// The upstream has checked the secret and rejected it.
    Refused,
    /// As [`Verdict::Refused`], but the reason may be the age of the challenge: it says nothing about the destination.
    Stale,
    /// Some proxies reject a secret by closing the connection; a failing destination looks the same.
    Closed,
    /// The request went through, possibly without a check of the secret. It was no failed logon in any case.
    Passed,
    /// Nothing is known.
    Undecided,
}

/// The verdict on an answer. `demands`: the destination is known to demand authentication; exempt ones are answered
/// without a check of the secret. `challenged`: the upstream has demanded it for this very request.
pub(super) fn of(answer: Answer, demands: bool, challenged: bool) -> Verdict {
    match answer {
        // A proxy that asks with 407 does not reject with 401, so the 401 is the origin's. Origins that authenticate by
        // NTLM answer nothing else on a fresh connection.
        Answer::Status(401) if challenged => Verdict::Accepted,
        // A proxy that rejects a secret answers 407. Of the other statuses, only those that come from the origin or a
        // cache show that the proxy let the request through; it may have sent the rest before it checked the secret.
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
    fn only_statuses_that_an_origin_sends_count_as_accepted() {
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
    fn a_401_counts_as_accepted_if_the_proxy_challenged_this_very_request() {
        assert_eq!(of(Answer::Status(401), true, true), Verdict::Accepted);
        assert_eq!(of(Answer::Status(401), true, false), Verdict::Undecided);
    }
}
