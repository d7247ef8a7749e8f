#!/bin/sh
# Makes the virtual environment $1 and installs Switchhook into it at the versions of constraints.txt.
# Debian and Ubuntu ship Python without its venv module: that one package is installed through apt where we may.
set -eu
venv=$1

find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Switchhook needs Python 3.11 or newer: apt-get install python3 (Debian 12, Ubuntu 24.04 or newer)" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

make_venv() {
    "$python" -m venv "$venv" >/dev/null 2>&1
}

python=$(find_python)
if ! make_venv; then
    rm -rf "$venv"
    package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info.minor)')
    if command -v apt-get >/dev/null 2>&1; then
        echo "installing $package"
        as_root apt-get update -qq >/dev/null 2>&1 || true
        as_root apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 || true
    fi
    if ! make_venv; then
        echo "Python's venv module is missing: apt-get install $package, then run make again" >&2
        exit 1
    fi
fi
echo "installing Switchhook into $venv (a minute the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
