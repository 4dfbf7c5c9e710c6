//! The chart's schema contains exactly the program's settings, each with its type.

use ntlm_gateway::config::keys::{Fallback, KEYS, Key, Kind};
use ntlm_gateway::config::table_keys::TABLE_KEYS;
use serde_json::{Map, Value, json};

const SCHEMA: &str = include_str!("../../deploy/helm/ntlm-gateway/values.schema.json");

/// Settings for which the chart has values of its own, or which it cannot offer.
const NOT_SETTINGS: [&str; 14] = [
    "upstream",
    "user",
    "listen",
    "admin",
    "allow_clients",
    "password_file",
    "nt_hash_file",
    "previous_password_file",
    "previous_nt_hash_file",
    "password_fd",
    "password",
    "keytab",
    "timeouts.shutdown_delay",
    "timeouts.drain",
];

/// Settings that name a file, although their names do not end like that.
const FILES: [&str; 2] = ["identities.keytab", "kerberos.krb5_conf"];

/// The schema of one setting's value.
fn schema_of(key: &Key) -> Value {
    let is_choice = |text: &str| text.contains('|') && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    match (key.name, key.kind) {
        ("upstreams.address", _) => json!({ "$ref": "#/definitions/hostPorts" }),
        ("listeners.address", _) => json!({ "$ref": "#/definitions/listener" }),
        ("listeners.target", _) => json!({ "$ref": "#/definitions/hostPort" }),
        ("identities.listen", _) => json!({ "$ref": "#/definitions/listeners" }),
        // The pods have no other files than those of their Secrets.
        (name, Kind::Text) if name.ends_with("_file") || FILES.contains(&name) => {
            json!({ "$ref": "#/definitions/secretFile" })
        }
        (_, Kind::Text) if is_choice(key.value_name) => {
            json!({ "enum": key.value_name.split('|').collect::<Vec<_>>() })
        }
        (_, Kind::Text) => json!({ "type": "string" }),
        (_, Kind::List) => json!({ "$ref": "#/definitions/list" }),
        (_, Kind::IntegerOrAuto) => json!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 0 }] }),
        (_, Kind::Integer) => json!({ "type": "integer", "minimum": 0 }),
        (_, Kind::Duration) => json!({ "$ref": "#/definitions/duration" }),
        (_, Kind::Size) => json!({ "$ref": "#/definitions/size" }),
        (_, Kind::Switch) => json!({ "type": "boolean" }),
    }
}

/// The settings of a section or a table by their names in it; the top-level ones for `settings`.
fn settings_of(section: &str) -> Vec<(&'static str, &'static Key)> {
    let all = KEYS.iter().chain(TABLE_KEYS).filter(|key| key.in_file() && !NOT_SETTINGS.contains(&key.name));
    let within = |key: &'static Key| match key.name.split_once('.') {
        Some((of, name)) => (of == section).then_some((name, key)),
        None => (section == "settings").then_some((key.name, key)),
    };
    all.filter_map(within).collect()
}

#[test]
fn the_charts_schema_contains_exactly_the_programs_settings() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut wrong = Vec::new();
    let sections = ["guard", "limits", "timeouts", "kerberos", "tls", "listeners", "upstreams", "identities", "routes"];
    for section in ["settings"].into_iter().chain(sections) {
        let value = &schema["properties"][section];
        let object = value.get("items").unwrap_or(value);
        assert_eq!(object["additionalProperties"], json!(false), "{section} accepts unknown settings");
        let settings = settings_of(section);
        let right: Map<String, Value> =
            settings.iter().map(|(name, key)| ((*name).to_owned(), schema_of(key))).collect();
        let there = object["properties"].as_object().expect("properties");
        let missing = right.iter().filter(|(name, value)| there.get(*name) != Some(value));
        wrong.extend(missing.map(|(name, value)| format!("in {section}: \"{name}\": {value}")));
        wrong.extend(
            there.keys().filter(|name| !right.contains_key(*name)).map(|name| format!("not in {section}: {name}")),
        );
        let needed = settings.iter().filter(|(_, key)| matches!(key.default, Fallback::Required(_)));
        let needed: Vec<&str> = needed.map(|(name, _)| *name).collect();
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(required, needed, "the required settings of an entry of {section}");
    }
    assert!(wrong.is_empty(), "deploy/helm/ntlm-gateway/values.schema.json differs:\n{}", wrong.join("\n"));
    for key in KEYS.iter().chain(TABLE_KEYS) {
        let known = key.name.split_once('.').is_none_or(|(section, _)| sections.contains(&section));
        assert!(known, "the chart has no values for {}", key.name);
    }
}
