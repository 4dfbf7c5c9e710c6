//! A keytab is read within its bounds or is an error, and each of its keys is found by its principal. The input is the
//! file.

use ntlm_gateway::kerberos::{EtypeSet, Keytab};

/// Recorded from `kadmin`.
const RECORDED: &[u8] = include_bytes!("../../src/kerberos/tests/recorded/http.keytab");

/// Checks one file.
pub fn check(input: &[u8]) {
    let Ok(keytab) = Keytab::parse(input) else { return };
    // The shortest entry has 4 bytes of length and 33 of content.
    assert!(keytab.entries().len() * 37 <= input.len());
    for entry in keytab.entries() {
        let keys = keytab.keys_of(&entry.principal, EtypeSet::new(true));
        assert!(keys.iter().any(|found| found.key == entry.key && found.kvno == entry.kvno));
        assert!(keys.is_sorted_by(|one, next| one.kvno >= next.kvno), "the newest version first");
        let strong = keytab.keys_of(&entry.principal, EtypeSet::new(false));
        assert!(strong.iter().all(|key| key.key.etype().number() != 23), "RC4 only if it is allowed");
        let shown = format!("{entry:?} {}", entry.principal);
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

/// A real keytab, with a hole, and cut.
pub fn seeds() -> Vec<Vec<u8>> {
    let hole = [&RECORDED[..2], &(-8_i32).to_be_bytes(), &[0; 8], &RECORDED[2..]].concat();
    vec![RECORDED.to_vec(), hole, RECORDED[..RECORDED.len() / 2].to_vec(), b"\x05\x02".to_vec(), b"\x05\x01".to_vec()]
}
