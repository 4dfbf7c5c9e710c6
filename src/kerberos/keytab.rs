//! Keytabs: MIT's format 0x0502, which Windows' `ktpass`, `msktutil` and Samba write too.

use thiserror::Error;
use zeroize::Zeroizing;

use super::crypto::{Etype, EtypeSet, Key};
use super::name::{NT_PRINCIPAL, Principal, PrincipalName};
use super::time::Timestamp;
use crate::limits;

/// A key of a keytab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeytabEntry {
    /// Whose key it is.
    pub principal: Principal,
    /// The version of the key.
    pub kvno: u32,
    /// When it was written.
    pub written: Timestamp,
    /// The key.
    pub key: Key,
}

/// The keys of a file. They are overwritten when their last owner drops them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keytab {
    entries: Vec<KeytabEntry>,
    skipped: usize,
}

/// Why a file is no keytab. The error does not contain what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeytabError {
    /// It does not begin as a keytab does.
    #[error("the file is not a keytab: it does not begin with the bytes 05 02")]
    Version,
    /// It ends in the middle of an entry, or a length is wrong.
    #[error("the keytab is damaged at byte {at}")]
    Damaged {
        /// Where the entry begins.
        at: usize,
    },
    /// It is too long, or has too many entries.
    #[error(
        "the keytab is too long: at most {} bytes and {} entries are allowed",
        limits::KEYTAB_BYTES,
        limits::KEYTAB_ENTRIES
    )]
    TooLong,
}

impl Keytab {
    /// Reads a keytab. Keys of etypes that are not implemented are skipped.
    ///
    /// # Errors
    /// [`KeytabError`] if it is none.
    pub fn parse(bytes: &[u8]) -> Result<Keytab, KeytabError> {
        if bytes.len() > limits::KEYTAB_BYTES {
            return Err(KeytabError::TooLong);
        }
        let mut rest = bytes.strip_prefix(&[5, 2]).ok_or(KeytabError::Version)?;
        let mut keytab = Keytab::default();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let damaged = KeytabError::Damaged { at };
            let (length, behind) = rest.split_first_chunk::<4>().ok_or(damaged)?;
            let length = i32::from_be_bytes(*length);
            // A negative length is that of a hole, where an entry was deleted. Zero ends the file.
            let bytes_used = usize::try_from(length.unsigned_abs()).map_err(|_| damaged)?;
            if bytes_used == 0 {
                break;
            }
            let (record, behind) = behind.split_at_checked(bytes_used).ok_or(damaged)?;
            rest = behind;
            if length < 0 {
                continue;
            }
            if keytab.entries.len() + keytab.skipped >= limits::KEYTAB_ENTRIES {
                return Err(KeytabError::TooLong);
            }
            match (Record { rest: record }).entry().ok_or(damaged)? {
                Some(entry) => keytab.entries.push(entry),
                None => keytab.skipped += 1,
            }
        }
        Ok(keytab)
    }

    /// A keytab with these keys.
    pub fn new(entries: Vec<KeytabEntry>) -> Keytab {
        Keytab { entries, skipped: 0 }
    }

    /// The file with these keys: a secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![5, 2]);
        for entry in &self.entries {
            let record = entry.encode();
            out.extend(bytes_of_u32(record.len()));
            out.extend_from_slice(&record);
        }
        out
    }

    /// All keys, in the order of the file.
    pub fn entries(&self) -> &[KeytabEntry] {
        &self.entries
    }

    /// Keys that were skipped, because their etype is not implemented.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The keys of a principal, the newest version first, and within it the strongest etype. The case of the realm does
    /// not matter.
    pub fn keys_of(&self, principal: &Principal, allowed: EtypeSet) -> Vec<&KeytabEntry> {
        let is_same = |entry: &&KeytabEntry| {
            entry.principal.name.is_same(&principal.name)
                && entry.principal.realm.eq_ignore_ascii_case(&principal.realm)
                && allowed.contains(entry.key.etype())
        };
        let strength = |etype: Etype| Etype::ALL.iter().position(|other| *other == etype);
        let mut keys: Vec<&KeytabEntry> = self.entries.iter().filter(is_same).collect();
        keys.sort_by_key(|entry| (std::cmp::Reverse(entry.kvno), strength(entry.key.etype())));
        keys
    }
}

impl KeytabEntry {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Principal { name, realm } = &self.principal;
        let mut out = Zeroizing::new(Vec::with_capacity(4096));
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            out.extend(bytes_of_u16(text.len()));
            out.extend_from_slice(text);
        };
        out.extend(bytes_of_u16(name.components.len()));
        text(&mut out, realm.as_bytes());
        name.components.iter().for_each(|component| text(&mut out, component.as_bytes()));
        out.extend(u32::try_from(name.kind).unwrap_or_default().to_be_bytes());
        out.extend(u32::try_from(self.written.seconds()).unwrap_or_default().to_be_bytes());
        out.extend(self.kvno.to_be_bytes().last());
        out.extend(u16::try_from(self.key.etype().number()).unwrap_or_default().to_be_bytes());
        text(&mut out, self.key.bytes());
        out.extend(self.kvno.to_be_bytes());
        out
    }
}

/// A length, which is bounded far below this by what a keytab may contain.
fn bytes_of_u16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// As [`bytes_of_u16`].
fn bytes_of_u32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// The rest of an entry. Each method returns `None` when it ends too early.
struct Record<'a> {
    rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// `Some(None)` for an etype that is not implemented.
    fn entry(mut self) -> Option<Option<KeytabEntry>> {
        let count = usize::from(self.u16()?);
        let realm = self.text()?.to_owned();
        if count == 0 || count > limits::KERBEROS_NAME_COMPONENTS {
            return None;
        }
        let mut components = Vec::new();
        for _ in 0..count {
            components.push(self.text()?.to_owned());
        }
        let kind = self.u32()?;
        let written = Timestamp::from_seconds(u64::from(self.u32()?));
        let [short_kvno] = self.take::<1>()?;
        let etype = self.u16()?;
        let length = usize::from(self.u16()?);
        let (key, behind) = self.rest.split_at_checked(length)?;
        self.rest = behind;
        // The whole version follows in newer files; zero stands for none.
        let kvno = self.u32().filter(|kvno| *kvno != 0).unwrap_or(u32::from(short_kvno));
        let Some(etype) = Etype::of_number(i64::from(etype)) else { return Some(None) };
        let kind = if kind == 0 { NT_PRINCIPAL } else { i64::from(kind) };
        let principal = Principal { name: PrincipalName { kind, components }, realm };
        Some(Some(KeytabEntry { principal, kvno, written, key: Key::new(etype, key)? }))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        str::from_utf8(text).ok().filter(|text| text.len() <= limits::KERBEROS_NAME_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as `kadmin` writes it, with its length.
    fn entry(name: &[&str], kvno: u32, etype: u16, key: &[u8]) -> Vec<u8> {
        let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
        let mut record = u16::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        record.extend(text("EXAMPLE.COM"));
        name.iter().for_each(|component| record.extend(text(component)));
        record.extend([0, 0, 0, 1, 0, 0, 0, 9, kvno.to_le_bytes()[0]]);
        record.extend(etype.to_be_bytes());
        record.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
        record.extend(key);
        record.extend(kvno.to_be_bytes());
        [&i32::try_from(record.len()).unwrap().to_be_bytes()[..], &record].concat()
    }

    fn alice() -> Principal {
        Principal::parse("alice@example.com", None).unwrap()
    }

    #[test]
    fn keys_are_found_newest_version_first_and_strongest_etype_first() {
        let hole = [&(-6_i32).to_be_bytes()[..], &[1; 6]].concat();
        let file = [
            vec![5, 2],
            entry(&["alice"], 2, 17, &[1; 16]),
            hole,
            entry(&["alice"], 300, 17, &[2; 16]),
            entry(&["alice"], 300, 18, &[3; 32]),
            entry(&["alice"], 300, 23, &[4; 16]),
            entry(&["alice"], 300, 3, &[5; 8]),
            entry(&["HTTP", "proxy"], 1, 20, &[6; 32]),
            vec![0; 4],
        ]
        .concat();
        let keytab = Keytab::parse(&file).unwrap();
        assert_eq!((keytab.entries().len(), keytab.skipped()), (5, 1));
        let found = |allow_rc4| -> Vec<(u32, i64)> {
            let keys = keytab.keys_of(&alice(), EtypeSet::new(allow_rc4));
            keys.iter().map(|entry| (entry.kvno, entry.key.etype().number())).collect()
        };
        assert_eq!(found(false), [(300, 18), (300, 17), (2, 17)]);
        assert_eq!(found(true), [(300, 18), (300, 17), (300, 23), (2, 17)]);
        assert_eq!(keytab.entries()[4].principal.to_string(), "HTTP/proxy@EXAMPLE.COM");
    }

    #[test]
    fn a_keytab_cut_anywhere_is_reported_and_never_panics() {
        let first = entry(&["a", "b"], 1, 18, &[1; 32]);
        let file = [&[5, 2][..], &first, &entry(&["c"], 1, 17, &[2; 16])].concat();
        for end in 0..file.len() {
            let parsed = Keytab::parse(&file[..end]);
            assert!(parsed.is_err() || end == 2 || end == 2 + first.len(), "{end}: {parsed:?}");
        }
        for at in 0..file.len() {
            let mut broken = file.clone();
            broken[at] ^= 0xff;
            let _ = Keytab::parse(&broken);
        }
        assert_eq!(Keytab::parse(b"\x05\x01"), Err(KeytabError::Version));
        assert_eq!(Keytab::parse(&vec![5; limits::KEYTAB_BYTES + 1]), Err(KeytabError::TooLong));
    }

    #[test]
    fn a_keytab_that_was_written_is_read_back() {
        let file = [vec![5, 2], entry(&["alice"], 300, 18, &[3; 32]), entry(&["HTTP", "proxy"], 1, 20, &[6; 32])];
        let keytab = Keytab::parse(&file.concat()).unwrap();
        let written = Keytab::new(keytab.entries().to_vec()).encode();
        assert_eq!((Keytab::parse(&written), &written[..]), (Ok(keytab), &file.concat()[..]));
    }

    #[test]
    fn an_old_keytab_has_versions_of_one_byte() {
        let mut file = [vec![5, 2], entry(&["alice"], 7, 17, &[1; 16])].concat();
        file.truncate(file.len() - 4);
        file[5] -= 4;
        assert_eq!(Keytab::parse(&file).unwrap().entries()[0].kvno, 7);
    }
}
