#!/usr/bin/env bash
# The second half of image.sh, in its own network and mount namespaces: IMAGE WORK PROGRAM.
set -euo pipefail
image=$1 work=$2 program=$3
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
user=31280
demo='' names='' gateway=''

cleanup() {
  for process in $gateway $demo $names; do
    kill -KILL "$process" 2>/dev/null || true
  done
}
trap cleanup EXIT

fail() {
  echo "FAILED: $*"
  cat "$work"/*.log 2>/dev/null | tail -40
  exit 1
}

# Polls a command for at most 20 seconds.
await() {
  local deadline=$((SECONDS + 20))
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

ip link set lo up
# The proxy is that of the demonstration, which verifies NTLM.
timeout 120 "$program" demo >"$work/demo.log" 2>&1 &
demo=$!
await grep -q 'is on 127.0.0.1:' "$work/demo.log" || fail "no demonstration"
port="$(sed -n 's/^An upstream proxy.* is on 127.0.0.1:\([0-9]*\);.*/\1/p' "$work/demo.log")"
# The cluster's DNS, with one name.
timeout 120 python3 "$root/tests/deploy/name_server.py" proxy.corp.example 127.0.0.1 >"$work/names.log" 2>&1 &
names=$!
await grep -q ready "$work/names.log" || fail "no name server"

mkdir "$work/rootfs" "$work/mounted"
mount --bind "$image" "$work/rootfs"
echo 'nameserver 127.0.0.1' >"$work/mounted/resolv.conf"
cat >"$work/mounted/gateway.toml" <<TOML
upstream = "proxy.corp.example:$port"
user = 'DEMO\\alice'
password_file = "/run/secrets/password"
listen = ["0.0.0.0:3128"]
allow_clients = ["127.0.0.0/8"]
admin = "0.0.0.0:8128"
shards = 2
[timeouts]
shutdown_delay = "1s"
drain = "20s"
TOML
printf '%s' "$(sed -n 's/^const PASSWORD: &str = "\(.*\)";/\1/p' "$root"/src/cli/demo.rs "$root"/src/cli/demo/*.rs | head -1)" >"$work/mounted/password"
[[ -s "$work/mounted/password" ]] || fail "the demonstration's password was not found"
chown -R "0:$user" "$work/mounted"
chmod 750 "$work/mounted"
chmod 440 "$work/mounted"/*
# A kubelet would also create those that the image lacks.
mkdir -p "$work/rootfs"/{etc,proc,run/secrets}
touch "$work/rootfs/etc/resolv.conf"
mount --bind "$work/mounted" "$work/rootfs/run/secrets"
mount --bind "$work/mounted/resolv.conf" "$work/rootfs/etc/resolv.conf"
chmod 444 "$work/mounted/resolv.conf"
mount -o remount,bind,ro "$work/rootfs"
touch "$work/rootfs/x" 2>/dev/null && fail "the root can be written to"

timeout --signal=KILL 120 unshare --pid --fork --kill-child \
  setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all \
  chroot --userspec="$user:$user" --groups="$user" "$work/rootfs" /usr/bin/ntlm-gateway run --config /run/secrets/gateway.toml \
  >"$work/gateway.log" 2>&1 &
gateway=$!
process_one() {
  local child
  child="$(cat "/proc/$gateway/task/$gateway/children")"
  child="$(cat "/proc/${child// /}/task/${child// /}/children")"
  echo "${child// /}"
}
q() { curl -q -sS --noproxy '' --max-time 10 "$@"; }
ready() { [[ "$(q -o /dev/null -w '%{http_code}' http://127.0.0.1:8128/readyz 2>/dev/null)" == 200 ]]; }
await ready || fail "it does not become ready: its proxy's name comes from the DNS"
pid="$(process_one)"
grep -E '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs|NSpid)' "/proc/$pid/status" | tr '\t' ' '
[[ "$(awk '/^Uid/{print $2, $3, $4, $5}' "/proc/$pid/status")" == "$user $user $user $user" ]] || fail "its user"
grep -q '^CapEff:.0000000000000000$' "/proc/$pid/status" || fail "its capabilities"
grep -q '^NSpid:.*[[:space:]]1$' "/proc/$pid/status" || fail "it is not process 1"

page="$(q --proxytunnel -x http://127.0.0.1:3128 http://hello.demo/)" || fail "no page"
echo "through the tunnel came: $page"
[[ "$page" == *"behind the proxy"* ]] || fail "the page"

# A tunnel that is open at SIGTERM continues, the listener closes, and the exit is clean.
exec 3<>/dev/tcp/127.0.0.1/3128
printf 'CONNECT hello.demo:80 HTTP/1.1\r\nHost: hello.demo:80\r\n\r\n' >&3
read -r -t 10 status <&3
[[ "$status" == *" 200 "* ]] || fail "the tunnel: $status"
while read -r -t 10 line <&3 && [[ "$line" != $'\r' ]]; do :; done
kill -TERM "$pid"
unready() { [[ "$(q -o /dev/null -w '%{http_code}' http://127.0.0.1:8128/readyz 2>/dev/null)" == 503 ]]; }
await unready || fail "still ready after SIGTERM"
closed() { ! (exec 4<>/dev/tcp/127.0.0.1/3128) 2>/dev/null; }
await closed || fail "it still accepts"
kill -0 "$pid" || fail "it did not wait for its tunnel"
printf 'GET / HTTP/1.1\r\nHost: hello.demo\r\nConnection: close\r\n\r\n' >&3
answer="$(timeout 10 cat <&3)"
[[ "$answer" == *"behind the proxy"* ]] || fail "the tunnel did not live on: $answer"
exec 3<&-
code=0
wait "$gateway" || code=$?
gateway=''
[[ $code -eq 0 ]] || fail "it ended with $code"
echo "SIGTERM: not ready, no longer accepting, its tunnel served to the end, exit code 0"
