"""`basedev shell-init`: a `julia` in front of Julia that starts the image of the checkout in which it is called."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from string import Template

from ..errors import SetupError, UsageError
from ..places import ADOPTED, ADOPTED_RECORD, BASE_RECORD, KINDS, PROGRAM
from ..process import PLACE
from ..shells import SHELLS, fish_word
from ..shim import LAUNCH
from ..storage import Storage, disk_errors

FOR_SHELL = {
    "fish": """\
# basedev: `julia` starts the image of the checkout in which it is called.
contains -- $place $$PATH; or set -gx PATH $place $$PATH
""",
    "bash": """\
# basedev: `julia` starts the image of the checkout in which it is called.
case ":$$PATH:" in
*:$place:*) ;;
*) export PATH=$place:"$$PATH" ;;
esac
""",
}
FOR_SHELL["zsh"] = FOR_SHELL["bash"]

MARK = "# This is basedev's julia, see `basedev shell-init --help`."

SHIM = """\
#!/bin/sh
$mark
# In a checkout that basedev adopted it starts the image of the present sources; elsewhere, with an image that is named
# (-J), or with BASEDEV_SHIM=0, it is the next julia on the PATH.
python=$python
package=$package
self=$self
checkouts=$${BASEDEV_CACHE:-$cache}/$adopted

become_next() {
    IFS=: next='' before='' passed=''
    set -f
    for directory in $$PATH; do
        candidate=$${directory:-.}/julia
        if ! [ -f "$$candidate" ] || ! [ -x "$$candidate" ]; then continue; fi
        second=''
        { read -r _ && read -r second; } 2>/dev/null <"$$candidate"
        if [ "$$second" != $mark_word ]; then
            next=$${next:-$$candidate}
        elif [ -z "$$passed" ] && [ "$$candidate" -ef "$$self" ]; then
            passed=1 before=$$next next=''
        fi
    done
    next=$${next:-$$before}
    if [ -z "$$next" ]; then
        echo "julia: there is no other julia on the PATH than basedev's" >&2
        exit 127
    fi
    exec "$$next" "$$@"
}

if [ "$${BASEDEV_SHIM-}" = 0 ] || ! [ -x "$$python" ] || ! [ -f "$$package/basedev/shim.py" ]; then
    become_next "$$@"
fi
skip=''
for word; do
    if [ "$$skip" ]; then
        skip=''
        continue
    fi
    case $$word in
    --sysimage-*) ;;
    -J* | --sys*) become_next "$$@" ;;
    -- | [!-]*) break ;;
    -[eELHCtp] | --eval | --print | --load | --home | --cpu-target | --procs | --machine-file) skip=1 ;;
    esac
done
root=$$(pwd -P)
while [ -n "$$root" ]; do
    if { [ -f "$$root/base/Base.jl" ] && [ -d "$$root/stdlib" ]; } || [ -f "$$checkouts$$root/$adopted_record" ]; then
        # A note in the checkout can have come with it; that in the cache is this user's.
        if ! [ -f "$$checkouts$$root/$adopted_record" ]; then break; fi
        for kind in $kinds; do
            if [ -f "$$root/$record" ] && [ -x "$$root/$program" ]; then
                exec "$$python" -I -S -c $launch "$$package" "$$root" "$${LC_CTYPE+=$$LC_CTYPE}" "$$@"
            fi
        done
        break
    fi
    root=$${root%/*}
done
become_next "$$@"
"""


def shell_code(shell: str | None, storage: Storage) -> str:
    """Writes the `julia` to put in front, and returns the code that does so in a shell; None is the user's shell.

    Raises UsageError when that shell is not known, SetupError when the cache directory can't be on a PATH.
    """
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise UsageError(f"the shell is none of {', '.join(SHELLS)}: name the one whose code you want")
    place = storage.root / "shell" / "bin"
    if ":" in str(place):
        raise SetupError(f"{place} can't be on a PATH because of its colon: set BASEDEV_CACHE to another directory")
    values = {
        "python": sys.executable,
        "package": str(PLACE),
        "self": str(place / "julia"),
        "cache": str(storage.root),
        "launch": LAUNCH.format("shim"),
        "mark_word": MARK,
    }
    quoted = {name: shlex.quote(value) for name, value in values.items()}
    names = {"adopted": ADOPTED, "adopted_record": ADOPTED_RECORD, "kinds": shlex.join(KINDS)}
    names |= {"record": BASE_RECORD.format("$kind"), "program": PROGRAM.format("$kind")}
    text = Template(SHIM).substitute(quoted, mark=MARK, **names)
    with storage.staging("shell") as made, disk_errors(f"write {place / 'julia'}"):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        (made / "julia").write_text(text, errors="surrogateescape")
        (made / "julia").chmod(0o755)
        (made / "julia").replace(place / "julia")
    word = fish_word(str(place)) if shell == "fish" else shlex.quote(str(place))
    return Template(FOR_SHELL[shell]).substitute(place=word)
