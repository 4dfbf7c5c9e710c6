//! A number that differs between configurations, for a metric that is compared across replicas.

use md5::{Digest, Md5};

use super::keys::{Fallback, KEYS, Key, TABLES};
use super::redact;
use super::settings::Settings;
use super::table_keys::TABLE_KEYS;

/// A 48-bit hash of all settings and their texts. A metric's value is a double, which can represent 48 bits exactly.
///
/// Secrets are not part of the settings. Values that depend on the machine alone, such as the default workstation, are
/// left out, so that replicas with the same configuration have the same number. MD5 is not used for security here: the
/// metric reveals no setting that could not be guessed anyway.
pub(super) fn of(settings: &Settings) -> u64 {
    let mut hash = Md5::new();
    update(&mut hash, settings, KEYS);
    for table in TABLES {
        for entry in settings.entries(table) {
            hash.update(table);
            update(&mut hash, &entry.settings, TABLE_KEYS);
        }
    }
    hash.finalize().iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn update(hash: &mut Md5, settings: &Settings, keys: &[Key]) {
    for key in keys {
        let default = || match key.default {
            Fallback::Value(value) => Some(value()),
            _ => None,
        };
        let text = settings.given(key.name).map(|setting| setting.text.clone()).or_else(default);
        let is_account = key.name.rsplit('.').next() == Some("user");
        // The number must not help to guess a password that was put behind the account.
        let text = text.map(|text| if is_account { redact::account(&text) } else { text });
        if let Some(text) = text {
            // With the lengths, different lists of settings cannot produce the same input.
            hash.update((key.name.len() as u64).to_be_bytes());
            hash.update(key.name);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::find;
    use super::super::settings::{Setting, Source};
    use super::*;

    fn digest(given: &[(&str, &str)]) -> u64 {
        let mut settings = Settings::default();
        for (name, text) in given {
            let source = Source::Flag((*name).to_owned());
            settings.give(find(name).unwrap(), Setting::new(*text, source));
        }
        of(&settings)
    }

    #[test]
    fn the_digest_depends_on_each_setting_but_not_on_its_source() {
        let one = digest(&[("upstream", "proxy.corp:8080")]);
        assert_eq!(one, digest(&[("upstream", "proxy.corp:8080")]));
        assert_ne!(one, digest(&[("upstream", "proxy.corp:8081")]));
        assert_ne!(one, digest(&[("upstream", "proxy.corp:8080"), ("user", "a")]));
        assert_eq!(one, digest(&[("upstream", "proxy.corp:8080"), ("first_leg", "negotiate")]), "the default");
        assert_ne!(digest(&[("user", "ab"), ("domain", "c")]), digest(&[("user", "a"), ("domain", "bc")]));
        assert_eq!(digest(&[("user", "a:s3cret")]), digest(&[("user", "a:other")]), "no secret is hashed");
        assert!(one < 1 << 48);
    }
}
