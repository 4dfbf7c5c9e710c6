//! Keeps passwords out of texts: a password in the wrong place is neither printed nor logged.

/// Replaces the part that is left out.
const LEFT_OUT: char = '…';

/// Whether a text has the form `…name:password@…`, such as a proxy's URL with an account in it.
#[must_use]
pub fn has_credentials(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(before, _)| before.contains(':'))
}

/// A text as it may be shown. If it [has credentials](has_credentials), only the part behind them is left.
#[must_use]
pub fn shown(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, after)) if before.contains(':') => format!("{LEFT_OUT}@{after}"),
        _ => text.to_owned(),
    }
}

/// An account as it may be shown. Everything behind a colon is left out, because no Windows account contains one.
#[must_use]
pub fn account(text: &str) -> String {
    match text.split_once(':') {
        Some((before, _)) => format!("{before}:{LEFT_OUT}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_information_of_a_url_is_not_shown() {
        for (text, expected) in [
            (r"http://CORP\svc:pw@proxy:8080", "…@proxy:8080"),
            ("svc:p@ss,w:rd@proxy:8080", "…@proxy:8080"),
            ("http://svc@proxy:8080", "…@proxy:8080"),
            ("proxy:8080", "proxy:8080"),
            ("svc@corp.example", "svc@corp.example"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }
}
