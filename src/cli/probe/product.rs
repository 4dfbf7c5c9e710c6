//! Guesses the proxy's product from its responses.

use super::message::Answer;

/// Texts in status lines and fields, and the products that send them. The more specific ones come first: Via also names
/// a Squid behind another proxy.
const MARKS: &[(&str, &str)] = &[
    ("forefront tmg", "Microsoft Forefront TMG"),
    ("isa server", "Microsoft ISA Server or Forefront TMG"),
    ("bcsi-c", "Symantec (Blue Coat) ProxySG"),
    ("bluecoat", "Symantec (Blue Coat) ProxySG"),
    ("blue coat", "Symantec (Blue Coat) ProxySG"),
    ("proxysg", "Symantec (Blue Coat) ProxySG"),
    ("ironport", "Cisco Secure Web Appliance (IronPort)"),
    ("cisco-wsa", "Cisco Secure Web Appliance (IronPort)"),
    ("mcafee web gateway", "McAfee (Skyhigh) Web Gateway"),
    ("skyhigh", "McAfee (Skyhigh) Web Gateway"),
    ("zscaler", "Zscaler"),
    ("websense", "Forcepoint (Websense)"),
    ("forcepoint", "Forcepoint (Websense)"),
    ("wingate", "WinGate"),
    ("fortiproxy", "Fortinet FortiProxy"),
    ("fortigate", "Fortinet FortiGate"),
    ("kerio", "Kerio Control"),
    ("sophos", "Sophos"),
    ("trafficserver", "Apache Traffic Server"),
    ("ntlm-gateway", "another ntlm-gateway"),
    ("cntlm", "cntlm"),
    ("x-squid-error", "Squid"),
    ("squid", "Squid"),
];

/// A product, and the line that revealed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub product: &'static str,
    pub by: String,
}

/// The product, if a response reveals it.
pub(super) fn guess<'a>(answers: impl Iterator<Item = &'a Answer>) -> Option<Guess> {
    let mut lines = Vec::new();
    for answer in answers {
        lines.push(answer.start_line.clone());
        lines.extend(answer.fields.iter().map(|(name, value)| format!("{name}: {value}")));
    }
    MARKS.iter().find_map(|(mark, product)| {
        let by = lines.iter().find(|line| line.to_ascii_lowercase().contains(mark))?;
        Some(Guess { product, by: by.clone() })
    })
}

/// The fields that describe the proxy, without duplicates, in order.
pub(super) fn marks<'a>(answers: impl Iterator<Item = &'a Answer>) -> Vec<(String, String)> {
    const OF_THE_CONNECTION: &[&str] = &[
        "connection",
        "proxy-connection",
        "keep-alive",
        "content-length",
        "transfer-encoding",
        "proxy-authenticate",
        "www-authenticate",
        "location",
        "retry-after",
    ];
    let mut found: Vec<(String, String)> = Vec::new();
    for field in answers.flat_map(|answer| &answer.fields) {
        let of_the_connection = OF_THE_CONNECTION.contains(&field.0.to_ascii_lowercase().as_str());
        if !of_the_connection && !found.contains(field) {
            found.push(field.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(head: &str) -> Option<&'static str> {
        let answer = Answer::of(format!("{head}\r\n\r\n").as_bytes(), 4096).unwrap();
        guess([&answer].into_iter()).map(|guess| guess.product)
    }

    #[test]
    fn products_are_recognised_by_their_marks() {
        for (head, product) in [
            ("HTTP/1.1 407 x\r\nVia: 1.1 p (squid/6.13)", Some("Squid")),
            ("HTTP/1.1 407 x\r\nX-Squid-Error: ERR_CACHE_ACCESS_DENIED 0", Some("Squid")),
            ("HTTP/1.1 401 x\r\nSet-Cookie: BCSI-CS-1=2; Path=/", Some("Symantec (Blue Coat) ProxySG")),
            ("HTTP/1.1 407 No ( The ISA Server requires it )", Some("Microsoft ISA Server or Forefront TMG")),
            ("HTTP/1.1 407 x\r\nServer: nobody", None),
        ] {
            assert_eq!(guessed(head), product, "{head}");
        }
    }
}
