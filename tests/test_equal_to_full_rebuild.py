"""A chained image and a full rebuild of the same sources: the same methods, names, docstrings and behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Bench

EVERYTHING = r"""
# Every method, name and docstring of every module, one a line. Names with a # are the compiler's, which counts them.
where(file) = replace(string(file), r".*/stdlib/v1\.5/" => "stdlib/")
mine(name) = !occursin('#', string(name))
sorted(lines) = foreach(println, sort!(lines))
lines = String[]
for root in Base.loaded_modules_array(), m in [root; filter(x -> x isa Module && x !== root,
        [getfield(root, n) for n in names(root, all = true) if isdefined(root, n) && !Base.isdeprecated(root, n)])]
    for name in names(m, all = true)
        (mine(name) && isdefined(m, name) && !Base.isdeprecated(m, name)) || continue
        value = getfield(m, name)
        push!(lines, "$m.$name $(typeof(value)) exported=$(Base.isexported(m, name)) const=$(isconst(m, name))")
        value isa Function && for method in methods(value)
            mine(method.name) || continue
            push!(lines, "$m.$name $(method.sig) $(method.module) $(where(method.file)):$(method.line) $(method.nargs)")
        end
    end
    for (binding, documented) in Base.Docs.meta(m), (signature, text) in documented.docs
        push!(lines, "$m doc $binding $signature $(hash(join(text.text)))")
    end
end
sorted(lines)
"""

BEHAVIOUR = r"""
print(chomp("x"), '|', chomp("line\n"), '|', strip(" a "), '|', Base.shout("hey"), Base.shout("hey", mark = '?'), '|')
print(Base.twice("ab"), Base.thrice("ab"), '|')
print(hasmethod(hex2bytes, Tuple{AbstractString}), '|', ispow2(8), ispow2(7), '|')
using Base64
print(base64encode(nothing), '|', base64encode("abc"), '|', functionloc(Base.shout, (String,))[2], '|')
print(which(chomp, (SubString{String},)).line, '|', Base.Docs.doc(Base.shout), Base.Docs.doc(chomp))
"""


@pytest.fixture
def edited(bench: Bench) -> Bench:
    """Sources with edits of several kinds."""
    util = "base/strings/util.jl"
    bench.edit(
        util,
        "function chomp(s::String)\n    i = lastindex(s)",
        '# a line more\nfunction chomp(s::String)\n    s == "x" && return SubString("edited")\n    i = lastindex(s)',
    )
    bench.edit(util, "hex2bytes(s::AbstractString) = hex2bytes(String(s))\n", "")
    bench.edit(util, "Remove a single trailing newline from a string.", "Edited documentation.")
    bench.append(
        util,
        '\n"""\n    shout(s; mark="!")\n\nUpper case.\n"""\n'
        'shout(s::AbstractString; mark="!") = uppercase(s) * mark\n\n'
        "for (name, n) in ((:twice, 2), (:thrice, 3))\n    @eval $name(s::AbstractString) = s^$n\nend\n",
    )
    bench.append("stdlib/Base64/src/encode.jl", '\nbase64encode(::Nothing) = "nothing"\n')
    return bench


def test_chained_is_as_rebuilt(edited: Bench) -> None:
    chained = edited.chain()
    rebuilt = edited.json("build", "--engine", "full")
    assert (chained["engine"], rebuilt["engine"]) == ("stock-1.5", "full")
    assert chained["sources_id"] == rebuilt["sources_id"]
    assert chained["image"] != rebuilt["image"]

    shown = [edited.julia(Path(result["image"]), BEHAVIOUR) for result in (chained, rebuilt)]
    assert shown[0] == shown[1]
    assert shown[0].startswith("edited|line|a|HEY!HEY?|ababababab|false|truefalse|nothing|YWJj|")
    assert "Upper case." in shown[0] and "Edited documentation." in shown[0]

    told = [set(edited.julia(Path(result["image"]), EVERYTHING).splitlines()) for result in (chained, rebuilt)]
    assert len(told[0]) > 30000
    # Debian's build left a module of its precompile script in the shipped image, and so in the base image
    assert {line for line in told[0] ^ told[1] if not line.startswith("__PackagePrecompilation")} == set()
