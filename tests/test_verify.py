"""`basedev verify`: a chained image equals the full rebuild of the same sources, and one that does not is found out.

All tests share one full rebuild.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator

import pytest
from conftest import Bench, clean, put_in_place
from corpus import MARK, apply, chosen, joined

from basedev.workflows.verify import compare, read_facts, set_aside, summary

UTIL = "base/strings/util.jl"

BEHAVIOUR = r"""
print(chomp("x"), '|', chomp("line\n"), '|', strip(" a "), '|', Base.shout("hey"), Base.shout("hey", mark = '?'), '|')
print(Base.twice("ab"), Base.thrice("ab"), '|')
print(hasmethod(hex2bytes, Tuple{AbstractString}), '|', ispow2(8), ispow2(7), '|')
using Base64
print(base64encode(nothing), '|', base64encode("abc"), '|', functionloc(Base.shout, (String,))[2], '|')
print(which(chomp, (SubString{String},)).line, '|', Base.Docs.doc(Base.shout), Base.Docs.doc(chomp))
"""

DOCSTRING = '"""\n    shout(s; mark="!")\n\nUpper case.\n"""\n'


SEED = int(os.environ.get("BASEDEV_TEST_SEED", random.randrange(1 << 32)))
"""Chooses the edits of the corpus that are made too. Set the variable to have a failure again."""

FROM_CORPUS = 12
"""How many of them: each makes the chained images of this file a second slower."""


@pytest.fixture(scope="module")
def edited(adopted: Bench) -> Iterator[Bench]:
    """Sources with edits of several kinds."""
    print(f"BASEDEV_TEST_SEED={SEED}: {', '.join(edit.name for edit in chosen(SEED, FROM_CORPUS))}")
    apply(adopted.root, chosen(SEED, FROM_CORPUS))
    adopted.edit(
        UTIL,
        "function chomp(s::String)\n    i = lastindex(s)",
        '# a line more\nfunction chomp(s::String)\n    s == "x" && return SubString("edited")\n    i = lastindex(s)',
    )
    adopted.edit(UTIL, "hex2bytes(s::AbstractString) = hex2bytes(String(s))\n", "")
    adopted.edit(UTIL, "Remove a single trailing newline from a string.", "Edited documentation.")
    adopted.append(
        UTIL,
        f'\n{DOCSTRING}shout(s::AbstractString; mark="!") = uppercase(s) * mark\n\n'
        'const LOUD = ("!", 3)\n'
        "for (name, n) in ((:twice, 2), (:thrice, 3))\n    @eval $name(s::AbstractString) = s^$n\nend\n",
    )
    adopted.append("stdlib/Base64/src/encode.jl", '\nbase64encode(::Nothing) = "nothing"\n')
    adopted.append("test/char.jl", '\n@test Base.LOUD == ("!", 3)\n')
    yield adopted
    clean(adopted)


def test_chained_equals_rebuilt(edited: Bench) -> None:
    found = edited.json("verify")
    assert (found["status"], found["differences"], found["errors"]) == ("verified", [], [])
    assert found["engine"] == "stock-1.5" and found["image"] != found["full_image"]
    assert found["facts"] > 200000
    assert found["moved"] > 0

    program, prints = joined(chosen(SEED, FROM_CORPUS))
    for image in ("image", "full_image"):
        assert edited.julia(found[image], program).split(MARK)[1:] == prints

    shown = [edited.julia(found[image], BEHAVIOUR) for image in ("image", "full_image")]
    assert shown[0] == shown[1]
    assert shown[0].startswith("edited|line|a|HEY!HEY?|ababababab|false|truefalse|nothing|YWJj|")
    assert "Upper case." in shown[0] and "Edited documentation." in shown[0]

    done = edited.basedev("verify")
    assert done.returncode == 0 and done.stdout == ""
    assert f"verified: the chained image equals the full rebuild ({found['facts']} facts compared)" in done.stderr


def test_differences_are_found(edited: Bench) -> None:
    chain_wrongly(
        edited,
        {
            'SubString("edited")': 'SubString("wrong!")',
            DOCSTRING: "#\n" * DOCSTRING.count("\n"),
            '("!", 3)': '("!", 4)',
            "for (name, n) in ((:twice, 2)": "\nfor (name, n) in ((:twice, 2)",
        },
    )
    done = edited.basedev("--json", "verify", "--tests", "char", "strings/types")
    assert done.returncode == 4
    told = json.loads(done.stdout)
    assert told["status"] == "different" and "a defect of basedev" in told["errors"][0]["message"]
    line = int(edited.julia(told["full_image"], "print(first(methods(Base.twice)).line)"))
    here, there = f"strings/util.jl:{line + 1} in the chained image", f"strings/util.jl:{line} in the full rebuild"
    *differences, failed = told["differences"]
    (code,) = (one for one in differences if one.startswith("lowered code Base.chomp(::String): "))
    ours, theirs = code.split(" in the chained image, ")
    assert '"wrong!"' in ours and '"edited"' in theirs
    assert differences == [
        'value Base.LOUD: ...ple{String, Int64}("!", 4) in the chained image, '
        '...ple{String, Int64}("!", 3) in the full rebuild',
        f"place Base.thrice(::AbstractString): {here}, {there}",
        f"place Base.twice(::AbstractString): {here}, {there}",
        code,
        f"lines Base.thrice(::AbstractString): {here}, {there}",
        f"lines Base.twice(::AbstractString): {here}, {there}",
        "docstring Base.shout in Base Tuple{AbstractString}: missing in the chained image "
        r'(shout(s; mark="!")\n\nUpper case.\n)',
    ]
    assert re.fullmatch(
        r"tests char: \d+ Pass, 1 Fail, .* in the chained image, \d+ Pass, .* in the full rebuild", failed
    )

    done = edited.basedev("verify", "--max", "2")
    assert done.returncode == 4
    assert done.stdout.splitlines() == [*differences[:2], f"... and {len(differences) - 2} more"]
    assert done.stderr.splitlines()[-1].startswith(
        "basedev: a defect of basedev: the chained image differs from the full"
    )


def chain_wrongly(bench: Bench, edits: dict[str, str]) -> None:
    """Puts an image that was chained from other sources in the place of that of the present ones."""
    right = bench.chain()["image_id"]
    source = bench.root / UTIL
    text = source.read_text()
    for old, new in edits.items():
        bench.edit(UTIL, old, new)
    wrong = bench.chain()["image_id"]
    source.write_text(text)
    assert right != wrong
    put_in_place(bench, wrong, right)


def test_nothing_to_compare(bench: Bench) -> None:
    bench.edit("base/version.jl", "const VInt = UInt32", "const VInt = UInt64")
    done = bench.basedev("verify")
    assert done.returncode == 0
    assert done.stderr == "basedev: nothing to compare: the sources can't be chained: " + REASON + "\n"
    told = bench.json("verify")
    assert (told["status"], told["full_rebuild_reason"], told["differences"]) == ("full", REASON, [])


REASON = "Base.VersionNumber is another type, and the base image has objects of the old one"


@pytest.mark.parametrize("words", [("--max", "few"), ("--tests", "no/such/test")])
def test_usage(bench: Bench, words: tuple[str, str]) -> None:
    done = bench.basedev("verify", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


METHOD = "Tuple{typeof(Base.chomp), String}"
HERE = f"method\t{METHOD}\tBase chomp\ncode\t{METHOD}\ta; b; c\nfirst lines\t{METHOD}\tu.jl:8\nname\tBase.x\tconstant\n"
"""Facts as `describe.jl` writes them."""


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (HERE, []),
        (
            HERE.replace("; c", ""),
            ["lowered code Base.chomp(::String): a; b; c in the chained image, a; b in the full rebuild"],
        ),
        (HERE.splitlines()[3], ["method Base.chomp(::String): missing in the full rebuild (Base chomp)"]),
        (HERE + "name\tBase.y\tvariable\n" * 2, ["name Base.y: 2 of them missing in the chained image (variable)"]),
    ],
)
def test_differences_in_words(there: str, told: list[str]) -> None:
    assert compare(read_facts(HERE), read_facts(there)) == told


def test_lines_of_moved_code_are_set_aside() -> None:
    moved = HERE.replace("u.jl:8", "u.jl:9")
    for before, differences in ((HERE, 0), (HERE.replace("u.jl:8", "u.jl:7"), 1)):
        ours, theirs, stale = set_aside(read_facts(HERE), read_facts(moved), read_facts(before))
        assert (len(compare(ours, theirs)), stale.total()) == (differences, 1 - differences)


def test_summary_of_tests() -> None:
    output = """\
Test Summary: | Pass  Broken  Total
  Overall     |    3       1      4
    SUCCESS
"""
    assert summary(output) == "3 Pass, 1 Broken, 4 Total"
    assert summary(output.replace("      1 ", "        ")) == "3 Pass, 4 Total"
    assert summary("Killed") == ""
