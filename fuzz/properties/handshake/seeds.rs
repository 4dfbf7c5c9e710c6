//! Conversations with which fuzzing begins.

use super::super::trace;

/// Conversations with proxies as they exist.
pub fn seeds() -> Vec<Vec<u8>> {
    const CHALLENGED: &str = "HTTP/1.1 407 A\r\nProxy-Authenticate: NTLM \x1a\r\nContent-Length: 3\r\n\r\nabc";
    const ASKED: &str = "HTTP/1.1 407 A\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\
        Content-Length: 0\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\n\r\ntunnel";
    const CLOSED: &str =
        "HTTP/1.1 407 A\r\nProxy-Authenticate: NTLM\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    let only = |scheme: &str| format!("HTTP/1.1 407 A\r\nProxy-Authenticate: {scheme}\r\nContent-Length: 0\r\n\r\n");
    let scripts = [
        format!("{CHALLENGED}\x1e{OK}"),
        format!("{ASKED}\x1e{CHALLENGED}\x1e{OK}"),
        format!("{CLOSED}\x1d{CHALLENGED}\x1e{ASKED}"),
        format!("{CHALLENGED}\x1e{CHALLENGED}"),
        format!("{}\x1e{}\x1e{OK}", only("Negotiate"), only("Negotiate \x1b")),
        format!("{}\x1e{}\x1e{}\x1e{OK}", only("Negotiate"), only("Negotiate"), only("Negotiate \x1b")),
        format!("{}\x1e{OK}", only("NTLM \x1b")),
        format!("{}\x1d{}{}\x1e{OK}", trace::FIRST_REFUSAL, "x".repeat(701), trace::challenged()),
        format!("{}\x1e{}", trace::challenged(), trace::ESTABLISHED),
        "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 407 A\r\nProxy-Authenticate: Basic,\r\n NTLM \x1a\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\x1eHTTP/1.1 403 No\r\nX: y\r\nContent-Length: 2\r\n\r\nno"
            .to_owned(),
        format!("{CHALLENGED}poison\x1d\x1d{CHALLENGED}\x1e\x1d"),
        format!("{ASKED}{ASKED}\x1d{ASKED}\x1e{ASKED}"),
        "HTTP/1.1 401 U\r\nWWW-Authenticate: NTLM\r\n\r\n".to_owned(),
        only("Basic realm=\"x\""),
        "SSH-2.0-x\r\n\r\n\x1d\x1d".to_owned(),
        "HTTP/1.0 407 A\r\nProxy-Authenticate: NTLM \x1a\r\n\r\nto the close\x1d\x1d".to_owned(),
    ];
    let heads = [[0, 0], [3, 1], [255, 4], [7, 2], [1, 5]];
    let mut seeds: Vec<Vec<u8>> =
        scripts.iter().zip(heads.iter().cycle()).map(|(said, head)| [&head[..], said.as_bytes()].concat()).collect();
    let basic = only("Basic realm=\"x\"");
    let page = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let moved = "HTTP/1.1 302 M\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // GET, POST, PUT and HEAD are 8, 16, 24 and 32.
    for (options, said) in [
        (8, format!("{CHALLENGED}\x1e{page}")),
        (9, page.to_owned()),
        (16, format!("{CHALLENGED}\x1eHTTP/1.1 100 C\r\n\r\n{page}")),
        (16, format!("{page}\x1e{page}")),
        (16, [page; 6].join("\x1e")),
        (128, format!("{}\x1e{CHALLENGED}\x1e{OK}", ASKED.replace(": Negotiate", ": Basic realm=\"x\""))),
        (17, format!("{page}\x1e{ASKED}\x1e{CHALLENGED}\x1e{page}")),
        (24, format!("{moved}\x1d{page}")),
        (24, format!("{page}poison\x1d{CHALLENGED}\x1e{ASKED}")),
        (25, format!("{ASKED}\x1e{CHALLENGED}\x1eHTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n")),
        (32, format!("{CHALLENGED}\x1eHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")),
        (64, format!("{ASKED}\x1e{CHALLENGED}\x1e{OK}")),
        (80, format!("{page}\x1e{page}")),
        (128, format!("{basic}\x1e{OK}")),
        (128 + 4, format!("{basic}\x1e{OK}")),
        (128 + 4, format!("{basic}\x1e{OK}\x1d{OK}")),
        (128 + 4 + 1, format!("{basic}\x1e{OK}\x1d{}\x1e{OK}", only("Negotiate"))),
        (128 + 64 + 4, format!("{basic}\x1e{OK}\x1d{}\x1d{OK}", CLOSED.replace("NTLM", "Negotiate"))),
        (128 + 16 + 5, format!("{basic}\x1e{page}")),
        (128, format!("{}\x1d{OK}", CLOSED.replace("NTLM", "Basic"))),
    ] {
        for seed in [0, 5] {
            seeds.push([&[seed, options], said.as_bytes()].concat());
        }
    }
    seeds
}
