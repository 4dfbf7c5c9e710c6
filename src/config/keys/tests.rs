use super::*;

#[test]
fn names_flags_and_variables_are_unique() {
    let count = |text: fn(&Key) -> String| KEYS.iter().map(text).collect::<std::collections::HashSet<_>>().len();
    assert_eq!(count(|key| key.name.into()), KEYS.len());
    assert_eq!(count(|key| key.flag.into()), KEYS.len());
    assert_eq!(count(Key::env), KEYS.len());
}

#[test]
fn no_variable_collides_with_those_that_kubernetes_sets_for_a_service() {
    for key in KEYS {
        let env = key.env();
        let rest = env.strip_prefix(ENV_PREFIX).unwrap();
        assert!(!rest.starts_with("PORT") && !rest.starts_with("SERVICE"), "{env}");
    }
}

#[test]
fn a_misspelt_name_finds_the_most_similar_one() {
    for (unknown, expected) in [
        ("upsteam", "upstream"),
        ("Upstream", "upstream"),
        ("allow-clients", "allow_clients"),
        ("allowed_clients", "allow_clients"),
        ("timeout", "timeouts"),
        ("idle_timeout", "timeouts.idle"),
        ("timeouts.halfclosed", "timeouts.half_closed"),
        ("timeouts.idle_timeout", "timeouts.idle"),
        ("limits.max_tunnels", "max_tunnels"),
    ] {
        assert_eq!(nearest(unknown), Some(expected), "{unknown}");
    }
    for unknown in ["colour", "x", "", "proxy_auth"] {
        assert_eq!(nearest(unknown), None, "{unknown}");
    }
}
