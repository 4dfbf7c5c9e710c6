#!/usr/bin/env bash
# Builds deploy/Dockerfile with buildah, inspects the image, and runs it as a kubelet would: on a read-only root, as an
# unprivileged user, as process 1, with the secret and resolv.conf mounted.
#
# The two base images are substitutes made here: the build image has this machine's compiler and crates and no network, and
# the final one has the relevant files of distroless/static. NTLM_GATEWAY_IMAGE_BASES=pull uses the real ones.
#
#     tests/deploy/image.sh [PROGRAM]      PROGRAM acts as the proxy; default: this machine's build of the gateway
#
# It is run with chroot and namespaces instead of a container runtime: seccomp and cgroups are not part of this test.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
program="${1:-$root/target/debug/ntlm-gateway}"
work="$(mktemp -d)"
chmod 755 "$work"
cargo_home="${CARGO_HOME:-$HOME/.cargo}"
size_limit=$((20 * 1000 * 1000))

b() {
  local command=$1
  shift
  buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$command" "$@"
}

cleanup() {
  b rm --all >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

fail() {
  echo "FAILED: $*"
  exit 1
}

# An image of a directory.
commit() {
  local container
  container="$(b from scratch)"
  b copy --quiet "$container" "$1" / >/dev/null
  shift
  b config "${@:2}" "$container"
  b commit --quiet "$container" "$1" >/dev/null
  b rm "$container" >/dev/null
}

stand_ins() {
  local sysroot build="$work/base-build" final="$work/base-final"
  sysroot="$(rustc --print sysroot)"
  mkdir -p "$build"/{usr,etc,tmp,proc,dev,sys,root,opt/rust,opt/cargo/bin} "$final"/{etc,tmp,proc,run/secrets}
  for directory in bin sbin lib lib64; do
    # If this machine has them merged into /usr.
    [[ -L "/$directory" ]] && cp -P "/$directory" "$build/"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$build/etc/passwd"
  commit "$build" docker.io/library/rust:1.95-slim-bookworm --env PATH=/opt/rust/bin:/opt/cargo/bin:/usr/bin:/bin \
    --env CARGO_HOME=/opt/cargo --env CARGO_NET_OFFLINE=true "${profile[@]/#/--env=}"
  volumes=(--volume /usr:/usr:ro --volume "$sysroot:/opt/rust:ro" --volume /etc/alternatives:/etc/alternatives:ro
    --volume "$cargo_home/bin:/opt/cargo/bin:ro" --volume "$cargo_home/registry:/opt/cargo/registry")
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$final/etc/passwd"
  echo 'hosts: files dns' >"$final/etc/nsswitch.conf"
  commit "$final" gcr.io/distroless/static-debian12:nonroot --user 65532
}

# So that somebody who tries this script can make it compile faster: CARGO_PROFILE_RELEASE_LTO=off tests/long image.
mapfile -t profile < <(env | grep '^CARGO_PROFILE_RELEASE_' || true)
volumes=()
pull=--pull-never
if [[ "${NTLM_GATEWAY_IMAGE_BASES:-}" == pull ]]; then
  pull=--pull
else
  stand_ins
fi
# Fetch all crates before the build, which has no network.
(cd "$root" && cargo fetch --locked --quiet)
b bud "$pull" --isolation chroot "${volumes[@]}" --file "$root/deploy/Dockerfile" --tag ntlm-gateway:test "$root" \
  >"$work/build.log" 2>&1 || { tail -40 "$work/build.log"; fail "the build"; }

container="$(b from --pull-never localhost/ntlm-gateway:test)"
image="$(b mount "$container")"
bytes="$(du --summarize --bytes "$image" | cut -f1)"
echo "the image's files: $bytes bytes, the program $(stat --format %s "$image/usr/bin/ntlm-gateway")"
((bytes < size_limit)) || fail "the image is larger than $size_limit bytes"
told="$(b inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Labels}}' localhost/ntlm-gateway:test)"
echo "$told"
[[ "$told" == "65532:65532 [/usr/bin/ntlm-gateway]"*org.opencontainers.image.licenses:Apache-2.0* ]] || fail "its configuration"

bill="$image/usr/share/sbom/ntlm-gateway.cdx.json"
"$root/deploy/sbom.py" | cmp - "$bill" || fail "the image's bill of materials"
"$root/deploy/sbom.py" --compare "$image/usr/bin/ntlm-gateway" || fail "the list in the program"
"$root/deploy/pgo/check" "$image/usr/bin/ntlm-gateway" || fail "the profile"

mkdir -p "$work/secret"
# A process namespace as well, so that nothing it starts outlives it.
unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc bash "$root/tests/deploy/image_run.sh" "$image" "$work" "$program"
