//! Environment variables that look like settings but are unknown.

use std::ffi::OsString;

use super::error::{ConfigError, Problem};
use super::keys::{self, ENV_PREFIX, KEYS};
use super::settings::Source;
use super::warning::{Advice, Warning};

/// Checks the names of all variables that are set: a variable with the prefix of the settings must be a setting.
/// `lookup` returns a variable's value.
///
/// Kubernetes sets variables for each Service of a namespace unless the pod has `enableServiceLinks: false`. For a
/// Service whose name begins with `ntlm-gateway`, they have the gateway's prefix. They are recognised by their form and
/// are not errors.
pub fn check_names(
    names: impl IntoIterator<Item = OsString>,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> (Vec<ConfigError>, Vec<Warning>) {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let settings: Vec<String> = KEYS.iter().map(keys::Key::env).collect();
    let is_set = |name: &str| names.iter().any(|known| known == name);
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for name in names.iter().filter(|name| !settings.contains(name)) {
        // An empty variable counts as not set.
        if lookup(name).is_some_and(|value| value.is_empty()) {
            continue;
        }
        let source = || Source::Env(name.escape_debug().to_string());
        let upper = name.to_ascii_uppercase();
        if let Some(rest) = upper.strip_prefix(ENV_PREFIX) {
            if !is_of_kubernetes(name, is_set, |name| lookup(name)) {
                let problem = Problem::UnknownVariable { nearest: nearest(rest) };
                errors.push(ConfigError { source: source(), key: String::new(), problem });
            }
        } else if let Some(meant) =
            settings.iter().find(|setting| upper.starts_with("NTLM") && is_near(&upper, setting))
        {
            warnings.push(Warning { source: source(), key: String::new(), advice: Advice::Variable(meant.clone()) });
        }
    }
    errors.sort_by_key(|error| error.source.to_string());
    (errors, warnings)
}

/// Whether a name is nearly that of a setting.
fn is_near(name: &str, setting: &str) -> bool {
    strsim::damerau_levenshtein(name, setting) <= 2
}

/// The variable of the setting whose name is most similar to `rest`, the name behind the prefix, if any is similar.
fn nearest(rest: &str) -> Option<String> {
    let in_file = |key: &keys::Key| key.name.replace('.', "_").to_ascii_uppercase();
    let mut best: Option<(usize, String)> = None;
    for key in KEYS {
        let variable = key.env();
        let own = variable.strip_prefix(ENV_PREFIX).unwrap_or(&variable).to_owned();
        for candidate in [own, in_file(key)] {
            let distance = strsim::damerau_levenshtein(rest, &candidate);
            let is_near = distance <= rest.len().min(candidate.len()).div_ceil(3);
            if is_near && best.as_ref().is_none_or(|(least, _)| distance < *least) {
                best = Some((distance, variable.clone()));
            }
        }
    }
    let of_file = || {
        // These do not resemble a name in the file.
        let meant = match rest {
            "PASSWD" | "PASS" | "SECRET" => "password",
            "NT_HASH" | "HASH" => "nt_hash_file",
            _ => keys::nearest(rest)?,
        };
        keys::find(meant).filter(|key| !key.flag.is_empty()).map(keys::Key::env)
    };
    best.map(|(_, variable)| variable).or_else(of_file)
}

/// Whether a variable is one that Kubernetes sets for a Service: `X_SERVICE_HOST`, `X_SERVICE_PORT`,
/// `X_SERVICE_PORT_NAME`, `X_PORT`, `X_PORT_3128_TCP` and `X_PORT_3128_TCP_ADDR`, `_PORT` and `_PROTO`.
///
/// `X_PORT` alone looks like a setting. It comes from Kubernetes if `X_SERVICE_HOST` is set too, or if its value is a
/// URL such as `tcp://10.0.0.1:3128`.
fn is_of_kubernetes(name: &str, is_set: impl Fn(&str) -> bool, lookup: impl Fn(&str) -> Option<OsString>) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    if let Some(service) = name.strip_suffix("_PORT")
        && !ends_in_protocol(service)
    {
        let is_url = |value: OsString| {
            let value = value.to_str().unwrap_or_default();
            ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
        };
        return is_set(&format!("{service}_SERVICE_HOST")) || lookup(name).is_some_and(is_url);
    }
    let stem = ["_ADDR", "_PORT", "_PROTO"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    ends_in_protocol(stem)
}

/// Whether a name ends like `_PORT_3128_TCP`.
fn ends_in_protocol(name: &str) -> bool {
    let number = ["_TCP", "_UDP", "_SCTP"].iter().find_map(|end| name.strip_suffix(end)?.rsplit_once("_PORT_"));
    number.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The names of this process's variables. The copies of their values are overwritten, because one may be the password.
#[must_use]
pub fn names() -> Vec<OsString> {
    let wiped = |(name, value): (OsString, OsString)| {
        drop(zeroize::Zeroizing::new(value.into_encoded_bytes()));
        name
    };
    std::env::vars_os().map(wiped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(variables: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        let (errors, warnings) = check_names(variables.iter().map(|(name, _)| OsString::from(name)), lookup);
        (errors.iter().map(ToString::to_string).collect(), warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_misspelt_variable_is_an_error_that_names_the_nearest() {
        for (name, meant) in [
            ("NTLM_GATEWAY_UPSTREAMS", "NTLM_GATEWAY_UPSTREAM"),
            ("NTLM_GATEWAY_PASWORD_FILE", "NTLM_GATEWAY_PASSWORD_FILE"),
            ("NTLM_GATEWAY_PASWORD", "NTLM_GATEWAY_PASSWORD"),
            ("NTLM_GATEWAY_PASSWD", "NTLM_GATEWAY_PASSWORD"),
            ("ntlm_gateway_user", "NTLM_GATEWAY_USER"),
            ("NTLM_GATEWAY_TIMEOUTS_IDLE", "NTLM_GATEWAY_IDLE_TIMEOUT"),
            ("NTLM_GATEWAY_LIMITS_HEAD", "NTLM_GATEWAY_HEAD_LIMIT"),
            ("NTLM_GATEWAY_ALLOWED_CLIENTS", "NTLM_GATEWAY_ALLOW_CLIENTS"),
        ] {
            let (errors, warnings) = checked(&[(name, "Qu33n")]);
            assert_eq!(errors, [format!("{name}: unknown setting; did you mean {meant}?")]);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        let (errors, _) = checked(&[("NTLM_GATEWAY_COLOUR", "Qu33n"), ("NTLM_GATEWAY_PORT", "3128"), ("PATH", "/bin")]);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].starts_with("NTLM_GATEWAY_COLOUR: unknown setting; `ntlm-gateway run --help` lists"),
            "{errors:?}"
        );
    }

    #[test]
    fn known_empty_and_unrelated_variables_are_not_errors() {
        let known: Vec<String> = KEYS.iter().map(keys::Key::env).collect();
        let mut variables: Vec<(&str, &str)> = known.iter().map(|name| (name.as_str(), "x")).collect();
        variables.extend([("NTLM_GATEWAY_UPSTREAMS", ""), ("NTLMAPS_USER", "x"), ("HOME", "/"), ("http_proxy", "x")]);
        assert_eq!(checked(&variables), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_misspelt_prefix_is_a_warning() {
        let (errors, warnings) = checked(&[("NTLM_GATWAY_UPSTREAM", "x"), ("NTLMGATEWAY_USER", "x")]);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(
            warnings,
            [
                "NTLM_GATWAY_UPSTREAM: is not a setting; did you mean NTLM_GATEWAY_UPSTREAM?",
                "NTLMGATEWAY_USER: is not a setting; did you mean NTLM_GATEWAY_USER?"
            ]
        );
    }

    #[test]
    fn the_variables_of_a_kubernetes_service_are_not_errors() {
        let (address, port) = ("10.0.0.1", "3128");
        let of_service = |service: &str| {
            [
                ("SERVICE_HOST", address),
                ("SERVICE_PORT", port),
                ("SERVICE_PORT_PROXY", port),
                ("SERVICE_PORT_HTTP_ADMIN", port),
                ("PORT", "tcp://10.0.0.1:3128"),
                ("PORT_3128_TCP", "tcp://10.0.0.1:3128"),
                ("PORT_3128_TCP_PROTO", "tcp"),
                ("PORT_3128_TCP_PORT", port),
                ("PORT_3128_TCP_ADDR", address),
                ("PORT_53_UDP", "udp://10.0.0.1:53"),
                ("PORT_9_SCTP_ADDR", address),
            ]
            .map(|(name, value)| (format!("{service}_{name}"), value))
        };
        for service in ["NTLM_GATEWAY", "NTLM_GATEWAY_ADMIN", "NTLM_GATEWAY_2"] {
            let all = of_service(service);
            let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            assert_eq!(checked(&all), (Vec::new(), Vec::new()), "{service}");
            for variable in all {
                assert_eq!(checked(&[variable]), (Vec::new(), Vec::new()), "alone");
            }
        }
        assert_eq!(
            checked(&[("NTLM_GATEWAY_PORT", port), ("NTLM_GATEWAY_SERVICE_HOST", address)]).0,
            Vec::<String>::new()
        );
        for name in ["NTLM_GATEWAY_PORT", "NTLM_GATEWAY_ADMIN_PORT", "NTLM_GATEWAY_PORT_TCP", "NTLM_GATEWAY_SERVICE"] {
            assert_eq!(checked(&[(name, port)]).0.len(), 1, "{name} is not from Kubernetes");
        }
    }
}
