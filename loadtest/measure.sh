#!/bin/bash
# Measures everything that benches/RESULTS.md compares with other proxies, one comparison after the other, in about half
# an hour. The machine must be quiet.
#
#   loadtest/measure.sh DIRECTORY [COMPARISON…]
#
# DIRECTORY gets the figures and the tables of each comparison: NAME.json and NAME.txt. Needs haproxy, cntlm and wrk;
# what is redirected needs root, unshare, ip and nft. ROUNDS (default 5) is how often each candidate is measured.
set -euo pipefail

directory=${1:?the directory for the figures}
shift
chosen=("$@")
mkdir -p "$directory"
programs=${PROGRAMS:-$(dirname "$0")/../target/release}

compare() {
  local name=$1
  shift
  if ((${#chosen[@]})) && [[ " ${chosen[*]} " != *" $name "* ]]; then return; fi
  echo "==> $name: ntlm-loadtest compare $*"
  "$programs/ntlm-loadtest" compare "$@" --json "$directory/$name.json" | tee "$directory/$name.txt"
}

# Gateways with other arguments take part as programs of their own.
gateway=$(realpath "$programs/ntlm-gateway")
variant() {
  printf '#!/bin/bash\n%s\n' "$2" >"$directory/$1"
  chmod +x "$directory/$1"
}
variant cold "exec '$gateway' \"\$@\" --warm 0"
variant quiet "exec '$gateway' \"\$@\" --log-level warn"
# Its argument --shards is there already.
variant two-shards "for ((i = 1; i < \$#; i++)); do
  if [[ \${!i} == --shards ]]; then set -- \"\${@:1:i}\" 2 \"\${@:i+2}\"; fi
done
exec '$gateway' \"\$@\""

rounds=${ROUNDS:-5}
timed=(--seconds 2 --rounds "$rounds")
compare tunnels gateway cold="$directory/cold" quiet="$directory/quiet" gateway-kerberos haproxy --base haproxy \
  --scenarios setup:8,setup:64,setup:512 "${timed[@]}"
compare messages gateway haproxy --base haproxy --scenarios pingpong:1,pingpong:64 "${timed[@]}"
compare bulk gateway haproxy-splice haproxy --base haproxy-splice --scenarios bulk-down,bulk-up --rounds "$rounds"
compare protocols gateway gateway-socks gateway-socks-pipelined gateway-socks4 gateway-forward --base gateway \
  --scenarios setup:64 "${timed[@]}"
compare redirected gateway gateway-transparent --base gateway --scenarios setup:8,setup:64 "${timed[@]}"
compare tls gateway-tls haproxy-tls --base haproxy-tls --scenarios setup:64,bulk-down,bulk-up "${timed[@]}"
compare tls-full gateway-tls haproxy-tls --base haproxy-tls --scenarios setup:64 --no-resumption "${timed[@]}"
compare legs gateway cold="$directory/cold" gateway-kerberos direct --base direct --scenarios legs:1,legs:16 --rounds 3
compare open gateway haproxy direct --base direct --scenarios open "${timed[@]}"
compare fairness gateway haproxy direct --base direct --scenarios fairness:4,fairness:16,fairness:64 \
  "${timed[@]}"
compare shards gateway two-shards="$directory/two-shards" --base gateway --scenarios setup:64 "${timed[@]}"
compare requests gateway haproxy-http haproxy --base haproxy-http --scenarios http:16,http:64,http-post:16 "${timed[@]}"
compare cntlm gateway cntlm --base cntlm --scenarios setup:64,http:16 --seconds 2 --rounds 2
compare hold gateway haproxy --base haproxy --scenarios hold:1000,hold:9600 --rounds 2
compare hold-tls gateway-tls gateway --base gateway --scenarios hold:2000 --rounds 2 --gateway-arg=--warm=0
compare tickets gateway-kerberos haproxy --base haproxy --scenarios setup:64 --ticket-bytes 4096 "${timed[@]}"
if ((${#chosen[@]} == 0)) || [[ " ${chosen[*]} " == *" wrk "* ]]; then
  echo "==> wrk: loadtest/wrk.sh $rounds"
  PROGRAMS=$programs "$(dirname "$0")/wrk.sh" "$rounds" | tee "$directory/wrk.txt"
fi
