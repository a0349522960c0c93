#!/bin/sh
# Make .venv on a machine that may lack anything, then hand over to environment.py.
# Usage: bootstrap.sh EXTRAS [ENGINE]    for example: bootstrap.sh demo,dev auto
set -eu
cd "$(dirname "$0")/../.."

good_python() { # version >= 3.11; a pyenv shim for a version that is not installed fails here
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() { # sets python to one that can make environments, else no_venv to one that cannot
    python='' no_venv=''
    for candidate in python3.13 python3.12 python3.11 python3; do
        good_python "$candidate" || continue
        if "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then python=$candidate; return; fi
        no_venv=${no_venv:-$candidate}
    done
}

missing='' apt='' dnf=''
lacks() { missing="${missing:+$missing, }$1"; apt="$apt $2"; dnf="$dnf $3"; }

check_host() {
    find_python
    if [ -z "$python" ] && [ -n "$no_venv" ]; then
        lacks "Python's venv module (for $no_venv)" "$no_venv-venv" python3-pip
    elif [ -z "$python" ]; then
        lacks 'Python 3.11 or newer' 'python3 python3-venv' python3.12
    fi
    command -v git >/dev/null 2>&1 || lacks git git git
    command -v make >/dev/null 2>&1 || lacks make make make
    command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 ||
        lacks 'a C++ compiler' build-essential gcc-c++
    [ -z "$missing" ] && return
    echo "error: edgeapp needs $missing, which this machine does not have." >&2
    echo "hint: Debian, Ubuntu: sudo apt-get install -y$apt" >&2
    echo "      Fedora, RHEL:   sudo dnf install -y$dnf" >&2
    exit 1
}

usable() { # not half made, its Python still installed, and not moved: scripts in it carry their full path
    .venv/bin/python -c '' 2>/dev/null && grep -qF "$(pwd -P)/.venv/" .venv/bin/pip 2>/dev/null
}

if ! usable; then
    check_host
    echo "Creating .venv with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv
fi
exec .venv/bin/python packaging/engine/environment.py --extras "$1" --engine "${2:-auto}"
