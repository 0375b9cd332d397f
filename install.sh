#!/usr/bin/env bash
# usage: ./install.sh VENV [EXTRAS]      such as ./install.sh .venv '[dev]'; `make` calls it.
# This project, with the versions of constraints.txt, into VENV: by uv where that can be had, else by
# pip. What is there already stays, so that a call after one that broke off goes on.
set -euo pipefail
cd "$(dirname "$0")"
venv=$1 extras=${2:-}
python=$venv/bin/python

say() { echo "install: $*"; }

# Progress is for whoever watches it.
quiet=--quiet
if [ -t 1 ]; then quiet=; fi

pip_install() {
    "$python" -m pip install --disable-pip-version-check -c constraints.txt "$@"
}

# pip's word for a setting, from its environment variables or its files; empty where there is none.
pip_setting() {
    local variable="PIP_${1^^}"
    variable=${variable//-/_}
    if [ -n "${!variable:-}" ]; then
        echo "${!variable}"
    else
        "$python" -m pip config get "global.$1" 2>/dev/null || true
    fi
}

# uv knows nothing of pip's settings: without them it would look elsewhere for the same versions.
uv_install() {
    local index cert
    index=$(pip_setting index-url) cert=$(pip_setting cert)
    UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${index:-https://pypi.org/simple}} \
    UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)} \
    UV_FIND_LINKS=${UV_FIND_LINKS:-$(pip_setting find-links | tr ' ' ',')} \
    SSL_CERT_FILE=${SSL_CERT_FILE:-${cert:-}} \
        "$python" -m uv pip install $quiet --python "$python" --index-strategy unsafe-best-match \
        -c constraints.txt "$@"
}

if ! "$python" -m pip --version >/dev/null 2>&1; then
    say "a virtual environment in $venv (seconds)"
    python3 -m venv --clear "$venv"
fi
if ! "$python" -m uv --version >/dev/null 2>&1; then
    say "uv, which installs in half of pip's time (seconds)"
    pip_install --quiet --retries 1 uv || say "no uv: pip does without"
fi
if "$python" -m uv --version >/dev/null 2>&1; then
    say "the packages of constraints.txt, by uv (1 to 3 minutes the first time)"
    if uv_install -e ".$extras"; then
        exit 0
    fi
    say "uv could not: pip goes on"
fi
say "the packages of constraints.txt, by pip (2 to 5 minutes the first time)"
pip_install $quiet -e ".$extras"
