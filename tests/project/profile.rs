//! The profile that released programs are compiled with is there, and what compiles them uses it.

use std::fs;

/// The profile, from the repository's root.
const PROFILE: &str = "deploy/pgo/gateway.profdata";

/// The most bytes of the profile: it is part of every clone, and each renewal adds as much.
const MOST_BYTES: usize = 1 << 20;

/// What compiles programs that are released.
const COMPILED_BY: [&str; 2] = ["deploy/package/compile", "deploy/Dockerfile"];

fn read(path: &str) -> Vec<u8> {
    let path = crate::root().join(path);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_profile_is_small_and_knows_the_event_loop_but_no_folder_of_a_machine() {
    let profile = read(PROFILE);
    assert!(profile.len() <= MOST_BYTES, "{} bytes", profile.len());
    let has = |text: &str| profile.windows(text.len()).any(|window| window == text.as_bytes());
    for function in ["5shard3run5Shard", "7session", "5relay", "4ntlm", "8kerberos"] {
        assert!(has(&format!("12ntlm_gateway{function}")), "{PROFILE} does not know {function}");
    }
    for folder in ["/home/", "/root/", "/target/", "/src/"] {
        assert!(!has(folder), "{PROFILE} contains a path with {folder}");
    }
}

#[test]
fn released_programs_are_compiled_with_the_profile_and_the_names_it_knows() {
    for script in COMPILED_BY {
        let text = String::from_utf8(read(script)).expect("UTF-8");
        for needed in [PROFILE, "profile-use=", "deploy/pgo/rustc"] {
            assert!(text.contains(needed), "{script} does not name {needed}");
        }
    }
}
