"""What can't be chained with the result of a full rebuild is recognised, and told with its reason."""

from __future__ import annotations

import pytest
from conftest import Bench

UTIL = "base/strings/util.jl"

EDITS = {
    "type of objects": (
        (
            "base/regex.jl",
            "    match_options::UInt32\n    regex::Ptr{Cvoid}\n",
            "    match_options::UInt32\n    regex::Ptr{Cvoid}\n    used::Bool\n",
        ),
        "Base.Regex is another type, and the base image has objects of the old one",
    ),
    "constant in the type of objects": (
        ("base/version.jl", "const VInt = UInt32", "const VInt = UInt64"),
        "Base.VersionNumber is another type",
    ),
    "export that others use": (
        ("base/exports.jl", "    chomp,\n", ""),
        "Base.chomp is not exported any more, and base/logging.jl",
    ),
    "call at top level": (
        ("base/loading.jl", "register_root_module(Core)\n", "register_root_module(Core::Module)\n"),
        "top-level call in base/loading.jl",
    ),
    "filled later": (
        ("base/util.jl", '    :normal        => "\\033[0m",\n', '    :normal        => "\\033[00m",\n'),
        "Base.text_colors was filled after it was bound",
    ),
    "defined twice": (
        (UTIL, "# starts with and ends with predicates", "reverse(s::Union{String,SubString{String}}) = s"),
        "is defined a second time",
    ),
    "module": (
        ("stdlib/Base64/src/Base64.jl", "module Base64", "module Base46"),
        "module Base64 in stdlib/Base64/src/Base64.jl",
    ),
    "Core": (("base/boot.jl", "Core, true)", "Core, 1 == 1)"), "base/boot.jl is the Core module"),
    "project": (("stdlib/Base64/Project.toml", 'name = "Base64"', 'name  = "Base64"'), "stdlib/Base64/Project.toml"),
}

ALL_NEW = {
    "shared with the compiler": (
        (
            "base/array.jl",
            "function push!(a::Array{T,1}, item) where T",
            "function push!(a::Array{T,1}, item,) where {T<:Any}",
        ),
        "Core.Compiler itself uses Core.Compiler.push!",
    ),
    "the compiler's own": (
        ("base/compiler/utilities.jl", "function istopfunction(", "function is_top_function("),
        "Core.Compiler itself uses Core.Compiler.",
    ),
    "another result of a pure method": (
        ("base/reinterpretarray.jl", "@pure function array_subpadding(S, T)", "@pure function array_subpadding(S, U)"),
        "Base.array_subpadding is @pure and gives another result",
    ),
}
"""Edits for which no native code can be kept."""


@pytest.mark.parametrize("kind", sorted(ALL_NEW))
def test_reason_for_new_code_is_told(bench: Bench, kind: str) -> None:
    edit, reason = ALL_NEW[kind]
    bench.edit(*edit)
    plan = bench.json("status")
    assert plan["status"] == "chain" and plan["full_rebuild_reason"] is None
    assert reason in plan["new_code_reason"]


@pytest.mark.parametrize("kind", sorted(EDITS))
def test_reason_is_told(bench: Bench, kind: str) -> None:
    edit, reason = EDITS[kind]
    bench.edit(*edit)
    refusal = bench.refusal()
    assert reason in refusal
    assert len([line for line in refusal.splitlines() if "full rebuild" in line]) == 1
    assert bench.json("status")["full_rebuild_reason"] is not None
