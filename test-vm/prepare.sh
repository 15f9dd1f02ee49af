# Sourced by ./demo and ./test: installs what the machine lacks and builds Hawker.
# Needs a Debian-like system with Rust (cargo); everything else is fetched here.

# Each word is command:package.
needed="containerd:containerd runc:runc dockerd:docker.io docker-registry:docker-registry
skopeo:skopeo busybox:busybox-static ip:iproute2 tc:iproute2 iptables:iptables nsenter:util-linux nginx:nginx-light aria2c:aria2
python3:python3 cc:gcc protoc:protobuf-compiler tar:tar dpkg-deb:dpkg"

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"
if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo --preserve-env=PATH,HOME"; fi

missing_packages() {
    for pair in $needed; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || echo "${pair#*:}"
    done
    python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    # The C library's headers, for the cryptography of rustls.
    [ -e /usr/include/stdio.h ] || echo libc6-dev
}

# Installs packages without starting their daemons: the testbed runs its own.
install_packages() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
        $as_root chmod 755 $policy
        trap '$as_root rm -f $policy' EXIT
        trap 'exit 130' INT TERM
    fi
    $as_root apt-get update -q
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@"
    if [ -e $policy ] && [ "$(sed -n 2p $policy)" = "exit 101" ]; then
        $as_root rm -f $policy
    fi
    trap - EXIT INT TERM
}

install_missing() {
    command -v apt-get >/dev/null || { echo "this needs a Debian-like system with apt" >&2; exit 1; }
    missing=$(missing_packages | sort -u | tr '\n' ' ')
    if [ -n "$missing" ]; then
        echo "installing: $missing" >&2
        # shellcheck disable=SC2086 # a list of words
        install_packages $missing
    fi
    # Newer Debians split Docker's client from the daemon.
    command -v docker >/dev/null 2>&1 || install_packages docker-cli
    # Package lists are needed to fetch the contents of images.
    [ -n "$(apt-cache policy base-files 2>/dev/null | grep http)" ] || $as_root apt-get update -q
    command -v cargo >/dev/null || { echo "cargo is missing: see https://rustup.rs" >&2; exit 1; }
}

build() {
    echo "building (the first time takes some minutes)" >&2
    # Apart, so that nothing that only the testbed needs gets into what is shipped.
    (cd "$root" && cargo build --release && cargo build --release -p hawker-test-vm)
}

run_testbed() {
    # shellcheck disable=SC2086 # empty or words
    $as_root env "HAWKER_BIN_DIR=$target/release" "$target/release/hawker-test-vm" "$@"
}
