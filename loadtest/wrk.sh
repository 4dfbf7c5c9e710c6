#!/bin/bash
# Compares what a plain HTTP request on kept connections costs the gateway and HAProxy, with wrk as the client.
#
#   loadtest/wrk.sh [ROUNDS [SECONDS [CONNECTIONS]]]
#
# wrk knows no proxies, but sends the request line that it is told to. Its one thread handles many connections at less
# cost than ntlm-loadtest's client, which checks every answer, and so leaves more of the machine to the proxies. The
# gateway writes its access log and authenticates by NTLM; HAProxy (mode http, http-reuse always) does neither.
set -euo pipefail

rounds=${1:-5} seconds=${2:-4} connections=${3:-64}
programs=${PROGRAMS:-$(dirname "$0")/../target/release}
for program in wrk haproxy; do
  command -v "$program" > /dev/null || { echo "wrk.sh: $program is not installed" >&2; exit 1; }
done

scratch=$(mktemp -d)
started=()
finish() {
  kill "${started[@]}" 2> /dev/null || true
  wait
  rm -rf "$scratch"
}
trap finish EXIT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

until_open() {
  for _ in $(seq 100); do
    if (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; then return; fi
    sleep 0.1
  done
  echo "wrk.sh: nothing listens on port $1" >&2
  exit 1
}

demanding=$(free_port) open=$(free_port)
"$programs/ntlm-loadtest" upstream --listen "127.0.0.1:$demanding" > /dev/null & started+=($!)
"$programs/ntlm-loadtest" upstream --listen "127.0.0.1:$open" --personality open > /dev/null & started+=($!)
(umask 077; printf 'correct horse' > "$scratch/password")
cat > "$scratch/request.lua" << 'LUA'
local line
init = function() line = wrk.format("GET", "http://hello.test/", { Host = "hello.test" }) end
request = function() return line end
LUA
until_open "$demanding"
until_open "$open"

start_gateway() {
  exec "$programs/ntlm-gateway" run --listen "127.0.0.1:$1" --admin 127.0.0.1:0 --shards 1 \
    --upstream "127.0.0.1:$demanding" --user 'CORP\alice' --password-file "$scratch/password" 2> "$scratch/access.log"
}

start_haproxy() {
  cat > "$scratch/haproxy.cfg" << CONF
global
  nbthread 1
  maxconn 1000
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
listen proxy
  bind 127.0.0.1:$1
  server stub 127.0.0.1:$open
CONF
  exec haproxy -db -f "$scratch/haproxy.cfg" 2> "$scratch/haproxy.log"
}

# The processor time of a process and its children, in µs.
cpu_us() {
  local pid total=0 ticks
  for pid in "$1" $(cat "/proc/$1/task/$1/children"); do
    ticks=$(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')
    total=$((total + ticks * 1000000 / $(getconf CLK_TCK)))
  done
  echo "$total"
}

# Starts a candidate, and prints its processor time for each request in µs, and the requests per second.
measure() {
  local port proxy before after requests out
  port=$(free_port)
  "start_$1" "$port" & proxy=$!
  until_open "$port"
  wrk -t1 -c"$connections" -d1 -s "$scratch/request.lua" "http://127.0.0.1:$port" > /dev/null
  before=$(cpu_us "$proxy")
  out=$(wrk -t1 -c"$connections" -d"$seconds" -s "$scratch/request.lua" "http://127.0.0.1:$port")
  after=$(cpu_us "$proxy")
  kill "$proxy"
  wait "$proxy" || true
  if grep -E 'Non-2xx|Socket errors' <<< "$out" >&2; then exit 1; fi
  requests=$(awk '/requests in/ { print $1 }' <<< "$out")
  awk -v cpu=$((after - before)) -v n="$requests" -v s="$seconds" 'BEGIN { printf "%.2f %d\n", cpu / n, n / s }'
}

echo "round  gateway µs  HAProxy µs  ratio  gateway/s  HAProxy/s"
for round in $(seq "$rounds"); do
  read -r gateway gateway_rate < <(measure gateway)
  read -r haproxy haproxy_rate < <(measure haproxy)
  ratio=$(awk -v a="$gateway" -v b="$haproxy" 'BEGIN { printf "%.2f", a / b }')
  echo "$ratio" >> "$scratch/ratios"
  printf '%5d  %10s  %10s  %5s  %9s  %9s\n' "$round" "$gateway" "$haproxy" "$ratio" "$gateway_rate" "$haproxy_rate"
done
echo "median ratio: $(sort -n "$scratch/ratios" | sed -n "$(((rounds + 1) / 2))p")"
