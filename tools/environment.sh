# Sourced by the other tools, or in a shell at the repository's root: sees to everything that basedev and its tests
# need, puts it on the PATH, and sets $python. Says nothing and takes no time when all is there.
# The virtual environment is in the user's cache directory, named by the Python and by pyproject.toml.

here=$(dirname -- "$0")
if [ -f "$here/environment.sh" ]; then root=$(CDPATH='' cd -- "$here/.." && pwd); else root=$(pwd); fi
if [ ! -f "$root/tools/environment.sh" ]; then
    echo "go to the root of basedev's repository first" >&2
    return 2
fi
cache=${BASEDEV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/basedev}

need() { # program package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

is_suitable() { # the Python is there, and new enough
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

look_around() { # sets $missing, the packages to install, and $system_python
    missing=
    need git git
    need gcc gcc
    need g++ g++
    need ld binutils
    system_python=
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if is_suitable "$candidate"; then system_python=$candidate && break; fi
    done
    if [ -z "$system_python" ]; then
        missing="$missing python3 python3-venv"
    elif ! "$system_python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        missing="$missing python3-venv"
    fi
}

name_environment() {
    key=$({ "$system_python" -c 'import sys; print(sys.version, sys.prefix)'; cat "$root/pyproject.toml"; echo "$root"; } |
        sha256sum | cut -c1-16)
    venv=$cache/environments/$key
    python=$venv/bin/python
}

set_up() {
    look_around
    # Not needed, but twice as fast as GNU ld on an image of 150 MB.
    faster=
    command -v mold >/dev/null 2>&1 || command -v ld.lld >/dev/null 2>&1 || faster=mold
    if [ -n "$missing$faster" ] && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        echo "installing:$missing $faster"
        {
            apt-get update -qq
            # shellcheck disable=SC2086 - a list of words
            [ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
            [ -z "$faster" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $faster 2>&1
        } >/dev/null || true
        look_around
    fi
    if [ -n "$missing" ]; then
        [ -n "$system_python" ] || echo "there is no Python 3.10 or newer" >&2
        echo "please install:$missing" >&2
        return 3
    fi
    name_environment
    mkdir -p "$cache/environments"
    ( # one at a time
        flock 9
        if [ ! -e "$venv/complete" ]; then
            echo "making the Python environment in $venv"
            rm -rf "$venv"
            "$system_python" -m venv "$venv" &&
                "$python" -m pip install --quiet --disable-pip-version-check --use-pep517 -e "$root[dev]" &&
                "$python" -m compileall -q "$root/basedev" && # as pip does for what it copies, whatever PYTHON* says
                touch "$venv/complete"
        fi
    ) 9>"$venv.lock" || {
        echo "the Python environment could not be made: see above" >&2
        return 3
    }
}

look_around
if [ -z "$missing" ]; then name_environment; fi
if [ -n "$missing" ] || [ ! -e "$venv/complete" ]; then
    set_up || return 3 # not exit: the shell that sources this may be a user's own
fi
PATH=$venv/bin:$PATH
export PATH
