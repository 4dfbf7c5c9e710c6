//! Checks every input of the fuzzing corpus against its property, with any compiler and without a fuzzer.
//!
//! The properties are in `fuzz/properties` and the inputs in `fuzz/corpus`. `tests/long` searches for new inputs.

#[path = "../../fuzz/properties/mod.rs"]
mod properties;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use properties::{TARGETS, Target};

/// The limit of the whole corpus: it is cloned with the repository and read in every run of the tests.
const CORPUS_LIMIT_BYTES: u64 = 500 * 1024;
/// The limit of the number of files of one target.
const FILES_LIMIT: usize = 150;

fn fuzz() -> PathBuf {
    crate::root().join("fuzz")
}

/// The files of a folder with their contents, sorted by name.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths: BTreeSet<PathBuf> =
        entries.map(|entry| entry.expect("a folder can be read to its end").path()).collect();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// Checks the seeds and the corpus of one target and reports every input that fails.
fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("the target is in the table");
    let seeds = (target.seeds)().into_iter().enumerate();
    let mut inputs: Vec<_> = seeds.map(|(number, bytes)| (PathBuf::from(format!("seed {number}")), bytes)).collect();
    inputs.extend(files(&fuzz().join("corpus").join(name)));
    let holds = |bytes: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.check)(bytes))).is_ok();
    let failed: Vec<PathBuf> = inputs.into_iter().filter(|(_, bytes)| !holds(bytes)).map(|(path, _)| path).collect();
    assert!(failed.is_empty(), "{name} does not hold for {failed:?}");
}

macro_rules! replays {
    ($($target:ident $test:ident)*) => {
        $(#[test] fn $test() { replay(stringify!($target)); })*
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

replays! {
    ap_rep only_the_service_can_make_the_token_that_authenticates_it
    authenticate_message a_changed_authenticate_message_is_rejected
    av_pairs av_pair_lists_are_walked_within_their_bounds_and_read_back
    base64_token base64_is_decoded_as_a_plain_decoder_does
    certificate a_certificate_is_read_in_its_bounds_and_has_bindings_if_its_algorithm_is_known
    challenge_message every_answer_to_a_challenge_message_authenticates
    challenges challenges_mean_the_same_when_written_again
    chunked a_body_ends_at_the_same_byte_however_it_is_split
    client_hello a_server_name_is_the_same_however_its_hello_is_split_and_fragmented
    config a_configuration_is_valid_or_its_errors_have_their_places
    dns_answer a_dns_answer_yields_host_names_within_their_bounds_or_is_an_error
    forward forwarded_messages_mean_the_same_and_consume_nothing_behind_them
    handshake a_handshake_is_the_same_however_it_is_split_and_answers_only_its_challenge
    kdc_reply a_kdcs_reply_yields_only_the_ticket_that_was_asked_for
    kdc_request a_request_to_our_kdc_yields_a_ticket_only_with_the_clients_key
    keytab each_key_of_a_keytab_is_found_by_its_principal
    krb5_conf a_krb5_conf_is_read_within_its_bounds_or_is_an_error_with_its_line
    neg_token_resp a_response_of_spnego_is_read_in_one_way
    negotiate_message a_negotiate_message_is_answered_with_a_readable_challenge
    proxy_header a_proxy_header_has_one_reading_however_it_is_split
    request_head a_request_head_has_one_reading_and_is_forwarded_with_its_meaning
    response_head a_response_head_has_one_reading_and_one_framing
    socks what_a_socks_client_asks_for_is_the_same_however_it_is_split
    spnego a_negotiate_token_is_answered_if_it_contains_a_message
    transparent a_redirected_client_has_one_destination_however_its_bytes_are_split
}

#[test]
fn every_property_has_its_fuzz_target_its_test_and_its_corpus() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, REPLAYED);
    let named = |folder: &str| -> Vec<String> {
        let stem = |(path, _): &(PathBuf, _)| Some(path.file_stem()?.to_str()?.to_owned());
        files(&fuzz().join(folder)).iter().filter_map(stem).collect()
    };
    assert_eq!(named("fuzz_targets"), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the fuzz package has a manifest");
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        assert!(!files(&fuzz().join("corpus").join(name)).is_empty(), "{name} has no corpus");
    }
}

#[test]
fn the_corpus_is_small() {
    let mut bytes = 0;
    for Target { name, .. } in TARGETS {
        let files = files(&fuzz().join("corpus").join(name));
        assert!(files.len() <= FILES_LIMIT, "{name} has {} files; minimise it: cargo fuzz cmin {name}", files.len());
        bytes += files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    }
    assert!(bytes <= CORPUS_LIMIT_BYTES, "the corpus has {bytes} bytes");
}

/// `cargo test --test project write_the_seeds -- --ignored` writes the seeds into the corpus as a start for a fuzzer.
#[test]
#[ignore = "writes to fuzz/corpus"]
fn write_the_seeds() {
    for target in TARGETS {
        let folder = fuzz().join("corpus").join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (number, bytes) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), bytes).unwrap();
        }
    }
}
