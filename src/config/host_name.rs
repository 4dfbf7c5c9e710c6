//! This host's name, for the Workstation field.

/// The longest NetBIOS computer name, in characters.
const NETBIOS_LIMIT: usize = 15;

/// The NetBIOS form of this host's name; `NTLM-GATEWAY` if the system has no host name.
pub(super) fn workstation() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    netbios(&name).unwrap_or_else(|| "NTLM-GATEWAY".into())
}

/// The first label of a host name, in upper case and truncated, as Windows derives a computer's NetBIOS name.
fn netbios(host: &str) -> Option<String> {
    let label = host.trim().split('.').next()?;
    let name: String = label.chars().filter(char::is_ascii_graphic).take(NETBIOS_LIMIT).collect();
    (!name.is_empty()).then(|| name.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_cut_at_the_first_dot_and_at_fifteen_characters() {
        assert_eq!(netbios("egress.corp.example\n").as_deref(), Some("EGRESS"));
        assert_eq!(netbios("ntlm-gateway-7d9f8b6c5-x2x4z\n").as_deref(), Some("NTLM-GATEWAY-7D"));
        assert_eq!(netbios("\n"), None);
        assert!(!workstation().is_empty());
    }
}
