use super::*;
use report::Outcome;

fn imported(format: Format, text: &str) -> (String, Vec<(usize, Outcome, String)>) {
    let Imported { draft, report } = import(text, format);
    let notes = report.notes.into_iter().map(|note| (note.line, note.outcome, note.text)).collect();
    (output::made(&draft).0, notes)
}

fn outcome(notes: &[(usize, Outcome, String)], line: usize) -> Outcome {
    notes.iter().find(|note| note.0 == line).unwrap_or_else(|| panic!("line {line}: {notes:#?}")).1
}

#[test]
fn the_format_is_recognised_by_the_first_line_that_is_no_comment() {
    assert_eq!(Format::of("; px\n\n[proxy]\nserver = a:1\n"), Format::Px);
    assert_eq!(Format::of("# cntlm\nUsername [proxy]\n"), Format::Cntlm);
    assert_eq!(Format::of("[corp]\nUsername a\n"), Format::Cntlm);
}

#[test]
fn values_of_cntlm_end_where_cntlm_ends_them() {
    for (line, value) in [
        ("Password ab#cd", "ab"),
        ("Password \"ab#cd\" # x", "ab#cd"),
        ("Password ab;cd", "ab;cd"),
        ("password\tab cd ", "ab cd"),
        ("Password = ab", "= ab"),
    ] {
        let found = ini::cntlm(line);
        assert_eq!((found[0].key.to_lowercase().as_str(), found[0].value), ("password", value), "{line}");
    }
}

#[test]
fn a_cntlm_without_gateway_serves_only_this_machine() {
    let (toml, notes) =
        imported(Format::Cntlm, "Username a\nDomain D\nPassword p\nProxy p:1\nListen 5865\nTunnel 22:h:22\n");
    assert!(toml.contains("listen = [\"127.0.0.1:5865\"]") && toml.contains("address = \"127.0.0.1:22\""), "{toml}");
    assert!(!toml.contains("allow_clients"), "{toml}");
    assert!(notes.iter().all(|note| note.1 == Outcome::Imported), "{notes:#?}");
}

#[test]
fn a_gateway_without_rules_gets_the_private_networks_and_a_decision() {
    for (format, text) in [
        (Format::Cntlm, "Username a\nPassword p\nProxy p:1\nGateway yes\n"),
        (Format::Cntlm, "Username a\nPassword p\nProxy p:1\nListen 192.0.2.7:3128\n"),
        (Format::Px, "[proxy]\nserver = p:1\ngateway = 1\n"),
        (Format::Px, "[proxy]\nserver = p:1\nlisten = 192.0.2.7\nallow = *.*.*.*\n"),
    ] {
        let (toml, notes) = imported(format, text);
        assert!(toml.contains("\"10.0.0.0/8\"") && !toml.contains("0.0.0.0/0"), "{toml}");
        assert!(notes.iter().any(|note| note.1 == Outcome::Decide && note.2.contains("narrow it down")), "{notes:#?}");
    }
}

#[test]
fn rules_that_allow_clients_cannot_express_need_a_decision() {
    let text = "Gateway yes\nDeny 10.1.0.0/16\nAllow 10.0.0.0/8\nAllow 10.1.2.0/24\nAllow host.example\nAllow 0/0\n";
    let (toml, notes) = imported(Format::Cntlm, text);
    let outcomes: Vec<Outcome> = (2..=6).map(|line| outcome(&notes, line)).collect();
    use Outcome::{Decide, Dropped, Imported};
    assert_eq!(outcomes, [Imported, Decide, Dropped, Decide, Decide]);
    assert!(!toml.contains("10.1"), "{toml}");
}

#[test]
fn without_a_usable_secret_the_password_file_is_named_and_missing() {
    for secret in ["PassNTLMv2 D5826E9C665C37C80B53397D5C07BBCB", "PassLM 1AD3", "PassNT 77B9", ""] {
        let (toml, notes) = imported(Format::Cntlm, &format!("Username a\nDomain D\nProxy p:1\n{secret}\n"));
        assert!(toml.contains("password_file = \"./password\""), "{toml}");
        let missing = notes.iter().any(|note| note.1 == Outcome::Decide && note.2.contains("write the password to"));
        assert!(missing, "{secret}: {notes:#?}");
    }
}

#[test]
fn networks_are_understood_in_each_notation() {
    let text = |found: Option<Vec<ipnet::IpNet>>| {
        found.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    for (pattern, expected) in [
        ("10.*", "10.0.0.0/8"),
        ("192.168.*.*", "192.168.0.0/16"),
        ("127.0.0.*", "127.0.0.0/24"),
        ("*.*.*.*", "0.0.0.0/0"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.9/24", "192.0.2.0/24"),
        ("10.0.0.1-10.0.0.4", "10.0.0.1/32 10.0.0.2/31 10.0.0.4/32"),
        ("10.0.0.4-10.0.0.1", ""),
        ("*.example", ""),
        ("*", ""),
        ("10.*.1", ""),
        ("build-7.example", ""),
        ("1.2.3.4.*", ""),
    ] {
        assert_eq!(text(networks::pattern(pattern)), expected, "{pattern}");
    }
    for (rule, expected) in
        [("0/0", "0.0.0.0/0"), ("*", "0.0.0.0/0"), ("10/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32")]
    {
        assert_eq!(text(networks::rule(rule).map(|one| vec![one])), expected, "{rule}");
    }
    assert!(networks::rule("10.0.0.0/33").is_none() && networks::rule("a.example").is_none());
}

#[test]
fn times_of_px_are_read_up_to_a_week() {
    let (toml, _) = imported(Format::Px, "[proxy]\nserver = p:1\n[settings]\nidle = 600\nsocktimeout = 2.5\n");
    assert!(toml.contains("idle = \"600s\"\nconnect = \"2500ms\"\n"), "{toml}");
    for odd in ["-1", "x", "1e99", "nan"] {
        let (toml, notes) = imported(Format::Px, &format!("[proxy]\nserver = p:1\n[settings]\nidle = {odd}\n"));
        assert!(!toml.contains("idle"), "{toml}");
        assert_eq!(outcome(&notes, 4), Outcome::Decide);
    }
}

#[test]
fn addresses_that_cannot_be_used_need_a_decision_and_accounts_are_left_out() {
    let text = "Username a\nPassword p\nProxy http://joe:s3cret@p:8080/\nProxy p\nListen x:1\nTunnel 1:h:x\nTunnel 1\n";
    let (toml, notes) = imported(Format::Cntlm, text);
    assert!((3..=7).all(|line| outcome(&notes, line) == Outcome::Decide), "{notes:#?}");
    assert!(toml.contains("upstream = \"p:8080\"") && !toml.contains("s3cret") && !toml.contains("x:1"), "{toml}");
    assert!(notes.iter().all(|note| !note.2.contains("s3cret")), "{notes:#?}");
    let (toml, notes) = imported(Format::Px, "[proxy]\nserver = http://a:1,b:2,c\nport = x\n");
    assert!(toml.contains("upstream = [\"a:1\", \"b:2\"]") && !toml.contains(":x"), "{toml}");
    assert_eq!(outcome(&notes, 3), Outcome::Decide);
}

#[test]
fn a_file_without_a_setting_is_recognised() {
    for text in ["", "# only this\n", "\u{fffd}ELF\nnoise\n"] {
        assert!(import(text, Format::of(text)).report.is_empty(), "{text}");
    }
}
