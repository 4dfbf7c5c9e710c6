//! Certificates made by openssl, for tests of TLS. The test has to name openssl with [`crate::require_tools`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::run;
use super::scratch::Scratch;
use super::tools::path_of;

/// How a certificate's key is made, and with which digest it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Algorithm {
    /// For the names of files.
    pub name: &'static str,
    /// Arguments of `openssl req` that make the key.
    pub key: &'static [&'static str],
    /// Arguments of `openssl req` and `openssl x509` about the signature.
    pub signature: &'static [&'static str],
}

/// RSA with SHA-256, the most common one.
pub const RSA_SHA256: Algorithm = Algorithm { name: "rsa-sha256", key: RSA, signature: &["-sha256"] };
/// ECDSA with SHA-384.
pub const ECDSA_SHA384: Algorithm = Algorithm { name: "ecdsa-sha384", key: P256, signature: &["-sha384"] };
/// Ed25519.
pub const ED25519: Algorithm = Algorithm { name: "ed25519", key: &["-newkey", "ed25519"], signature: &[] };
/// Others, each of which has to be distinguished from these.
pub const FURTHER: [Algorithm; 5] = [
    Algorithm { name: "rsa-sha1", key: RSA, signature: &["-sha1"] },
    Algorithm { name: "rsa-sha512", key: RSA, signature: &["-sha512"] },
    Algorithm { name: "rsa-sha224", key: RSA, signature: &["-sha224"] },
    Algorithm { name: "pss-sha384", key: RSA, signature: &["-sha384", "-sigopt", "rsa_padding_mode:pss"] },
    Algorithm { name: "ecdsa-sha256", key: P256, signature: &["-sha256"] },
];

const RSA: &[&str] = &["-newkey", "rsa:2048"];
const P256: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// A certificate in PEM and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A certificate's extensions for a server with this name, as `DNS:name` or `IP:address`.
pub fn server(name: &str) -> Vec<String> {
    ["basicConstraints=critical,CA:FALSE".to_owned(), format!("subjectAltName={name}")].into()
}

/// A self-signed certificate for `server`, with the file name `name`.
pub fn self_signed(scratch: &Scratch, name: &str, algorithm: Algorithm, extensions: &[String], days: i32) -> Issued {
    let issued = files(scratch, name);
    openssl(|arguments| {
        arguments.extend(["req", "-x509", "-nodes", "-subj"].map(str::to_owned));
        arguments.push(format!("/CN={name}"));
        arguments.extend(algorithm.key.iter().chain(algorithm.signature).map(|text| (*text).to_owned()));
        arguments.extend(["-days".to_owned(), days.to_string()]);
        extensions.iter().for_each(|extension| arguments.extend(["-addext".to_owned(), extension.clone()]));
        arguments.extend(["-out".to_owned(), text(&issued.certificate), "-keyout".to_owned(), text(&issued.key)]);
    });
    issued
}

/// The certificate of a CA.
pub fn ca(scratch: &Scratch, name: &str) -> Issued {
    self_signed(scratch, name, ECDSA_SHA384, &["keyUsage=critical,keyCertSign,cRLSign".to_owned()], 30)
}

/// A certificate that a CA has issued. It has expired if `days` is negative.
pub fn issued_by(
    scratch: &Scratch,
    ca: &Issued,
    name: &str,
    algorithm: Algorithm,
    extensions: &[String],
    days: i32,
) -> Issued {
    let issued = files(scratch, name);
    let request = scratch.join(&format!("{name}.csr"));
    openssl(|arguments| {
        arguments.extend(["req", "-new", "-nodes", "-subj"].map(str::to_owned));
        arguments.push(format!("/CN={name}"));
        arguments.extend(algorithm.key.iter().map(|text| (*text).to_owned()));
        arguments.extend(["-out".to_owned(), text(&request), "-keyout".to_owned(), text(&issued.key)]);
    });
    let extensions = scratch.write(&format!("{name}.ext"), extensions.join("\n"));
    openssl(|arguments| {
        arguments.extend(["x509", "-req", "-in"].map(str::to_owned));
        arguments.extend([text(&request), "-CA".to_owned(), text(&ca.certificate), "-CAkey".to_owned(), text(&ca.key)]);
        arguments.extend(["-CAcreateserial", "-days"].map(str::to_owned));
        arguments.push(days.to_string());
        arguments.extend(["-extfile".to_owned(), text(&extensions), "-out".to_owned(), text(&issued.certificate)]);
    });
    issued
}

/// The certificate in DER.
pub fn der(certificate: &Path) -> Vec<u8> {
    let arguments = ["x509", "-outform", "der", "-in"];
    let finished = run(path_of("openssl"), BOUND, |command| {
        command.args(arguments).arg(certificate);
    });
    finished.expect_success("openssl x509").stdout
}

/// How long openssl may take for a key of RSA on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

fn files(scratch: &Scratch, name: &str) -> Issued {
    Issued { certificate: scratch.join(&format!("{name}.crt")), key: scratch.join(&format!("{name}.key")) }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn openssl(fill: impl FnOnce(&mut Vec<String>)) {
    let mut arguments = Vec::new();
    fill(&mut arguments);
    run(path_of("openssl"), BOUND, |command| {
        command.args(&arguments);
    })
    .expect_success(&arguments.join(" "));
}
