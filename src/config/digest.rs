//! A number that tells two configurations apart, for a metric that is compared over all replicas.

use md5::{Digest, Md5};

use super::keys::{Fallback, KEYS, Key, TABLES};
use super::redact;
use super::settings::Settings;
use super::table_keys::TABLE_KEYS;

/// 48 bits over all settings with their texts: a metric's value, a double, holds as many without loss.
///
/// The secret is not among the settings. Left out is what depends on the machine alone, such as the default workstation, so that
/// replicas with one configuration have one number. MD5 is no safeguard here: whoever can read the metric learns no setting
/// from it that they could not guess.
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
        // A password behind the account must not be guessed at by means of the number.
        let text = text.map(|text| if is_account { redact::account(&text) } else { text });
        if let Some(text) = text {
            // With the lengths, no two lists of settings are one text.
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
    use super::super::settings::{Origin, Setting};
    use super::*;

    fn digest(given: &[(&str, &str)]) -> u64 {
        let mut settings = Settings::default();
        for (name, text) in given {
            let origin = Origin::Flag((*name).to_owned());
            settings.give(find(name).unwrap(), Setting::new(*text, origin));
        }
        of(&settings)
    }

    #[test]
    fn it_differs_with_each_setting_and_not_with_where_it_was_given() {
        let one = digest(&[("upstream", "proxy.corp:8080")]);
        assert_eq!(one, digest(&[("upstream", "proxy.corp:8080")]));
        assert_ne!(one, digest(&[("upstream", "proxy.corp:8081")]));
        assert_ne!(one, digest(&[("upstream", "proxy.corp:8080"), ("user", "a")]));
        assert_eq!(one, digest(&[("upstream", "proxy.corp:8080"), ("first_leg", "negotiate")]), "the default");
        assert_ne!(digest(&[("user", "ab"), ("domain", "c")]), digest(&[("user", "a"), ("domain", "bc")]));
        assert_eq!(digest(&[("user", "a:s3cret")]), digest(&[("user", "a:other")]), "no secret is in it");
        assert!(one < 1 << 48);
    }
}
