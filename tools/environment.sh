# Sourced by the other tools, or in a shell at the repository's root: sees to everything that basedev and its tests
# need, puts it on the PATH, and sets $python.
# The virtual environment is in the user's cache directory, named by the Python and by pyproject.toml.

here=$(dirname -- "$0")
if [ -f "$here/environment.sh" ]; then root=$(CDPATH='' cd -- "$here/.." && pwd); else root=$(pwd); fi
cache=${BASEDEV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/basedev}

need() { # program package
    command -v "$1" >/dev/null 2>&1 || missing="${missing-} $2"
}

missing=
need git git
need gcc gcc
need g++ g++
need ld binutils
command -v python3 >/dev/null 2>&1 && python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
# Not needed, but twice as fast as GNU ld on an image of 150 MB.
command -v mold >/dev/null 2>&1 || command -v ld.lld >/dev/null 2>&1 || wanted=mold

if [ -n "$missing${wanted-}" ] && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing:$missing ${wanted-}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086 - a list of words
    [ -z "$missing" ] || apt-get install -y -qq --no-install-recommends $missing >/dev/null
    [ -z "${wanted-}" ] || apt-get install -y -qq --no-install-recommends "$wanted" >/dev/null 2>&1 || true
elif [ -n "$missing" ]; then
    echo "please install:$missing" >&2
    exit 3
fi

key=$({ python3 -c 'import sys; print(sys.version, sys.prefix)'; cat "$root/pyproject.toml"; echo "$root"; } | sha256sum | cut -c1-16)
venv=$cache/environments/$key
python=$venv/bin/python
if [ ! -e "$venv/complete" ]; then
    echo "making the Python environment in $venv"
    rm -rf "$venv"
    mkdir -p "$cache/environments"
    python3 -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check -e "$root[dev]"
    touch "$venv/complete"
fi
PATH=$venv/bin:$PATH
export PATH
