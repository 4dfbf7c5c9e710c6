//! A real domain: Samba's domain controller, with winbind for the `ntlm_auth` of a Squid.
//!
//! Needs root, namespaces, squid, winbind, iproute2, samba-ad-dc and samba-ad-provision. A test starts itself again in
//! namespaces of its own, because a domain controller has fixed ports and directories.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ntlm_gateway::ntlm::NtHash;

use super::command::{Finished, run};
use super::namespaces::{self, Preparation, run_inside};
use super::process::{Process, bounded_command};
use super::scratch::{Scratch, wait_for};
use super::squid::unprivileged_user;
use super::tools::{path_of, python_with};

/// How long a whole test may take: minutes on a machine that does other things, too.
const BOUND: Duration = Duration::from_secs(500);

/// How long a tool of Samba may take, and the start of the domain controller.
const TOOL_BOUND: Duration = Duration::from_secs(90);

/// Names of the domain's hosts, all on this machine. The last two are for a proxy.
const HOSTS: &str = "127.0.0.1 localhost\n127.0.0.1 dc.corp.example dc\n\
    127.0.0.1 proxy.corp.example\n127.0.0.1 alias.corp.example\n";

/// What is prepared before the test starts again: a network of its own, and empty directories for Samba.
const PREPARATION: &str = "ip link set lo up
for directory in /run/samba /var/lib/samba /var/cache/samba /var/log/samba /etc/samba /dev/shm; do
    mkdir -p $directory
    mount -t tmpfs none $directory
done
mkdir /var/lib/samba/private
mount --bind $TMPDIR/hosts /etc/hosts
mount --bind $TMPDIR/resolv.conf /etc/resolv.conf";

/// Runs this test in namespaces of its own; `true` if this is there already.
pub fn is_inside(test: &str) -> bool {
    if !namespaces::is_inside() {
        let files = [("hosts", HOSTS), ("resolv.conf", "search corp.example\nnameserver 127.0.0.1\n")];
        let preparation = Preparation { script: PREPARATION, files: &files, harness: &["--ignored"], bound: BOUND };
        run_inside(test, &preparation);
        return false;
    }
    true
}

/// A domain controller that runs, of the domain `CORP` and the realm `CORP.EXAMPLE`.
pub struct Domain {
    _samba: Process,
    scratch: Scratch,
}

fn tool(arguments: &[&str]) -> Finished {
    let what = arguments.join(" ");
    run(path_of("samba-tool"), TOOL_BOUND, |command| {
        command.args(arguments);
    })
    .expect_success(&what)
}

impl Domain {
    /// Makes the domain `CORP`, which keeps nothing of old passwords, and starts its controller.
    pub fn start() -> Self {
        let provision = "domain provision --realm=CORP.EXAMPLE --domain=CORP --server-role=dc \
             --dns-backend=SAMBA_INTERNAL --adminpass=Adm1n-Pass --host-name=dc --host-ip=127.0.0.1";
        let mut arguments: Vec<&str> = provision.split_whitespace().collect();
        arguments.extend(["--option=interfaces=lo", "--option=bind interfaces only=yes"]);
        tool(&arguments);
        // Nobody answers there, and each logon would wait for it.
        let settings = std::fs::read_to_string("/etc/samba/smb.conf").expect("the settings");
        let settings: Vec<&str> = settings.lines().filter(|line| !line.contains("dns forwarder")).collect();
        std::fs::write("/etc/samba/smb.conf", settings.join("\n") + "\n").expect("the settings");
        tool(
            &"domain passwordsettings set --complexity=off --min-pwd-age=0 --account-lockout-duration=30 \
               --reset-account-lockout-after=30"
                .split_whitespace()
                .collect::<Vec<_>>(),
        );
        let mut command = bounded_command(path_of("samba"), BOUND);
        command.args(["--interactive", "--no-process-group"]).stdout(Stdio::null()).stderr(Stdio::null());
        let samba = Process::spawn("samba", &mut command);
        let is_up = || {
            let ping = run(path_of("wbinfo"), Duration::from_secs(10), |command| {
                command.arg("-p");
            });
            (ping.code == Some(0)).then_some(())
        };
        assert!(wait_for(TOOL_BOUND, is_up).is_some(), "winbind does not answer");
        // Squid's helpers ask there.
        let (_, _, group) = unprivileged_user();
        std::os::unix::fs::chown("/var/lib/samba/winbindd_privileged", None, Some(group)).expect("chgrp");
        let scratch = Scratch::new("domain");
        // For MIT's library in the helper, which does not ask for names that are on loopback alone.
        let realm = "[libdefaults]\n default_realm = CORP.EXAMPLE\n dns_lookup_kdc = false\n rdns = false\n \
             dns_canonicalize_hostname = false\n[realms]\n CORP.EXAMPLE = {\n  kdc = 127.0.0.1\n }\n";
        scratch.write("krb5.conf", realm);
        Self { _samba: samba, scratch }
    }

    /// A krb5.conf that names its KDC.
    pub fn krb5_conf(&self) -> PathBuf {
        self.scratch.join("krb5.conf")
    }

    /// The number of wrong passwords that locks an account; 0 for none.
    pub fn set_lockout_threshold(&self, threshold: u32) {
        tool(&["domain", "passwordsettings", "set", &format!("--account-lockout-threshold={threshold}")]);
    }

    /// Creates an account.
    pub fn create(&self, user: &str, password: &str) {
        tool(&["user", "create", user, password]);
    }

    /// Changes the password of an account, as an administrator.
    pub fn set_password(&self, user: &str, password: &str) {
        tool(&["user", "setpassword", user, &format!("--newpassword={password}")]);
    }

    /// Gives an account the RC4 key of this password, which is its NT hash, and no other key.
    pub fn set_only_rc4_key(&self, user: &str, password: &str) {
        let hash = NtHash::from_password(password).to_hex();
        run(path_of("pdbedit"), TOOL_BOUND, |command| {
            command.args(["-u", user, &format!("--set-nt-hash={}", *hash)]);
        })
        .expect_success("pdbedit");
    }

    /// Disables an account.
    pub fn disable(&self, user: &str) {
        tool(&["user", "disable", user]);
    }

    /// Gives an account a service principal name.
    pub fn add_service(&self, service: &str, user: &str) {
        tool(&["spn", "add", service, user]);
    }

    /// The keys of an account or service in a new keytab.
    pub fn export_keytab(&self, principal: &str, name: &str) -> PathBuf {
        let path = self.scratch.join(name);
        tool(&["domain", "exportkeytab", &path.display().to_string(), &format!("--principal={principal}")]);
        path
    }

    /// Sets an attribute of an account, or clears it if `value` is empty.
    pub fn set_attribute(&self, user: &str, attribute: &str, value: &str) {
        self.change_directory(&["set", user, attribute, value]);
    }

    /// Puts an account into so many new groups.
    pub fn add_to_groups(&self, user: &str, count: usize) {
        self.change_directory(&["groups", user, &count.to_string()]);
    }

    fn change_directory(&self, arguments: &[&str]) {
        let python = python_with("samba").expect("the Python of samba-tool");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/directory.py");
        let what = arguments.join(" ");
        run(python, TOOL_BOUND, |command| {
            command.arg(script).args(arguments);
        })
        .expect_success(&what);
    }

    /// `badPwdCount` and `lockoutTime` of an account.
    pub fn bad_passwords_and_lockout(&self, user: &str) -> (u32, u64) {
        let shown = tool(&["user", "show", user, "--attributes=badPwdCount,lockoutTime"]).text();
        let value = |name: &str| {
            let line = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map_or(0, |value| value.trim().parse::<u64>().expect("a number"))
        };
        (u32::try_from(value("badPwdCount")).expect("a small number"), value("lockoutTime"))
    }

    /// `badPwdCount` of an account. Fails if the account is locked.
    #[track_caller]
    pub fn bad_passwords(&self, user: &str) -> u32 {
        let (count, lockout) = self.bad_passwords_and_lockout(user);
        assert_eq!(lockout, 0, "{user} is locked after {count} wrong passwords");
        count
    }
}
