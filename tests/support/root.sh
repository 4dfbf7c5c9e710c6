# Debian in a directory, and commands in it, for tests/bare and tests/packages. Needs root, debootstrap and unshare.

root_suite=bookworm
root_mirror=${NTLM_GATEWAY_TESTS_MIRROR:-http://deb.debian.org/debian}

# root_missing TOOL…: why no roots can be made here; nothing if they can. Further tools may be required.
root_missing() {
  if [[ $EUID -ne 0 ]]; then echo "it needs root"; return; fi
  local tool
  for tool in debootstrap unshare "$@"; do
    type -P "$tool" >/dev/null || { echo "no $tool"; return; }
  done
  unshare --mount true 2>/dev/null || echo "no mount namespaces"
}

# root_make DIR: a minimal Debian that reaches its packages as this machine does. The first one is kept as an archive.
root_make() {
  local dir=$1 archive=target/roots/$root_suite.tar
  mkdir -p target/roots "$dir"
  if [[ ! -e "$archive" ]]; then
    # It mounts /proc there, and leaves it if somebody looks into it at the end. A mount that others do not see is
    # neither archived nor removed.
    unshare --mount debootstrap --variant=minbase "$root_suite" "$dir.new" "$root_mirror"
    tar --one-file-system -C "$dir.new" -cf "$archive.new" .
    mv "$archive.new" "$archive"
    rm -rf --one-file-system "$dir.new"
  fi
  tar -C "$dir" -xf "$archive"
  # How this machine reaches the network: proxies, certificates and names.
  cp /etc/apt/apt.conf.d/99* "$dir/etc/apt/apt.conf.d/" 2>/dev/null || true
  cp -r /usr/local/share/ca-certificates "$dir/usr/local/share/" 2>/dev/null || true
  cp -L /etc/resolv.conf /etc/hosts "$dir/etc/"
  printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
  chmod 755 "$dir/usr/sbin/policy-rc.d"
}

# root_run DIR COMMAND…: runs it there, with mounts and processes that end with it. Directories in root_mounts
# (FROM:TO, separated by blanks) are there for reading.
root_run() {
  local dir=$1
  shift
  # shellcheck disable=SC2016
  unshare --mount --pid --fork --kill-child bash -euc '
    dir=$1; mounts=$2; shift 2
    # A mount of its own: commands in it can make mount namespaces only then.
    mount --bind "$dir" "$dir"
    mount --rbind /dev "$dir/dev"
    mount --rbind /sys "$dir/sys"
    mount -t proc proc "$dir/proc"
    mount -t tmpfs tmpfs "$dir/run"
    for pair in $mounts; do
      mkdir -p "$dir/${pair#*:}"
      mount --bind "${pair%%:*}" "$dir/${pair#*:}"
      mount -o remount,bind,ro "$dir/${pair#*:}"
    done
    exec chroot "$dir" "$@"
  ' bash "$dir" "${root_mounts:-}" "$@"
}

# root_clean: the environment of a machine on which nobody has set anything.
root_clean() { env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive "$@"; }

# root_boot DIR: starts systemd in it, without a network, in namespaces and control groups of its own. root_in runs
# commands there, root_halt ends it. Needs systemd-nspawn, and systemd in the root.
root_boot() {
  local dir=$1 children
  (
    for hierarchy in /sys/fs/cgroup{,/unified,/systemd}; do
      [[ -w "$hierarchy/cgroup.procs" ]] || continue
      mkdir -p "$hierarchy/ntlm-gateway-tests"
      echo "$BASHPID" >"$hierarchy/ntlm-gateway-tests/cgroup.procs"
    done
    exec systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe --directory="$dir" --boot
  ) </dev/null >"$dir.boot" 2>&1 &
  root_machine=$!
  for ((i = 0; i < 600; i++)); do
    read -r children _ 2>/dev/null <"/proc/$root_machine/task/$root_machine/children" || true
    root_init=${children:-}
    # It answers as soon as it has started all that it is to start.
    if [[ "$(cat "/proc/$root_init/comm" 2>/dev/null)" == systemd ]] &&
      [[ "$(root_in systemctl is-system-running --wait 2>/dev/null)" =~ ^(running|degraded)$ ]]; then
      return
    fi
    kill -0 "$root_machine" 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir.boot" >&2
  return 1
}

root_in() { root_clean nsenter --target "$root_init" --all -- "$@"; }

root_halt() {
  [[ -n "${root_machine:-}" ]] || return 0
  # Twice: orderly, then at once.
  kill "$root_machine" 2>/dev/null || true
  timeout 20 tail --pid="$root_machine" -f /dev/null || kill "$root_machine" 2>/dev/null || true
  wait "$root_machine" || true
  root_machine=
  # What another run still uses stays.
  find /sys/fs/cgroup{,/unified,/systemd}/ntlm-gateway-tests -depth -type d -exec rmdir {} + 2>/dev/null || true
}
