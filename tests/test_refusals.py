"""What can't be chained with the result of a full rebuild is recognised, and told with its reason."""

from __future__ import annotations

import pytest
from conftest import Bench

UTIL = "base/strings/util.jl"

EDITS = {
    "constant": (("base/version.jl", "const VInt = UInt32", "const VInt = UInt64"), "constant VInt in base/version.jl"),
    "struct": (("base/pair.jl", "struct Pair{A, B}", "struct Pair{A, B} <: Any"), "struct Pair in base/pair.jl"),
    "macro": (("base/util.jl", "macro kwdef(expr)", "macro kwdef(expr, _=0)"), "macro kwdef in base/util.jl"),
    "export": (("base/exports.jl", "    chomp,\n", ""), "export"),
    "include": (("base/Base.jl", 'include("version.jl")\n', ""), "include in base/Base.jl"),
    "side effect": (
        (UTIL, "# starts with and ends with predicates", "const A_LIST = push!([], 1)"),
        "constant A_LIST in base/strings/util.jl",
    ),
    "compiler": (
        ("base/compiler/utilities.jl", "function istopfunction(", "function is_top_function("),
        "base/compiler/utilities.jl is a part of Core.Compiler",
    ),
    "shared with the compiler": (
        (
            "base/array.jl",
            "function push!(a::Array{T,1}, item) where T",
            "function push!(a::Array{T,1}, item,) where {T<:Any}",
        ),
        "Core.Compiler itself uses Core.Compiler.push!",
    ),
    "Core": (("base/boot.jl", "Core, true)", "Core, 1 == 1)"), "base/boot.jl is the Core module"),
    "docstring of what is changed": (
        (UTIL, '"""\nfunction chop(s::AbstractString;', '"""\nnothing\n\nfunction chop(s::AbstractString;'),
        "docstring of method chop in base/strings/util.jl was removed",
    ),
    "project": (("stdlib/Base64/Project.toml", 'name = "Base64"', 'name  = "Base64"'), "stdlib/Base64/Project.toml"),
    "pure": (
        ("base/reinterpretarray.jl", "@pure function array_subpadding(S, T)", "@pure function array_subpadding(S, U)"),
        "@pure array_subpadding",
    ),
    "last method": (
        ("base/asyncmap.jl", "function wrap_n_exec_twice(", "function wrap_n_exec_two_times("),
        "no methods left",
    ),
}


@pytest.mark.parametrize("kind", sorted(EDITS))
def test_reason_is_told(bench: Bench, kind: str) -> None:
    edit, reason = EDITS[kind]
    bench.edit(*edit)
    refusal = bench.refusal()
    assert reason in refusal
    assert len([line for line in refusal.splitlines() if "full rebuild" in line]) == 1
    assert bench.json("status")["full_rebuild_reason"] is not None
