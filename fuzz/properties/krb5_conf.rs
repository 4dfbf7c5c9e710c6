//! A krb5.conf is read within its bounds or is an error with a line that it has, whatever it includes. The input is the
//! text, which also includes itself.

use ntlm_gateway::kerberos::{KdcAddress, Krb5Conf, Krb5ConfError};

/// Checks one text.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut included = 0;
    let mut read = || {
        Krb5Conf::parse(text, &mut |_| {
            included += 1;
            // A text with many lines that include it grows without bounds otherwise.
            if included < 20 { vec![text.to_owned()] } else { Vec::new() }
        })
    };
    match read() {
        Ok(conf) => {
            for word in text.split_whitespace() {
                assert!(conf.kdcs(word).len() <= 32);
                if let Some(realm) = conf.realm_of_host(word) {
                    assert!(text.contains(realm));
                }
            }
        }
        Err(Krb5ConfError::Line { line, .. }) => assert!((1..=text.lines().count()).contains(&line)),
        Err(Krb5ConfError::Open | Krb5ConfError::TooLong) => {}
    }
    if let Some(address) = KdcAddress::parse(text) {
        assert!(!address.host.is_empty() && address.port != 0 && text.contains(&address.host));
    }
}

/// A file as distributions ship it, and malformed ones.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "includedir /etc/krb5.conf.d/\n[libdefaults]\n default_realm = EXAMPLE.COM\n udp_preference_limit = 1\n\
         dns_lookup_kdc = true\n[realms]\n EXAMPLE.COM = {\n  kdc = kdc.example.com:88\n  kdc = tcp/[::1]\n\
         v4_instance_convert = {\n a = b\n }\n }\n[domain_realm]\n .example.com = EXAMPLE.COM\n",
        "[realms]\nR = {\n",
        "[realms]\n}\n",
        "include a\n",
        "a = b",
        "udp/10.0.0.1:750",
        "[domain_realm]\n# comment\n; comment\n host = \"R\"\nmodule x:y\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
