"""What an edit invalidates is what a build then does, and is shown as a tree, an object and a page."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Bench

from basedev.impact import Change, Counts, Impact, Node
from basedev.impact_page import page
from basedev.signatures import spoken

UTIL = "base/strings/util.jl"
OTHER_TYPE = ("function chomp(s::String)\n", "function chomp(s::String)\n    isempty(s) && return s\n")
"""What callers get may be another type then."""
OTHER_BODY = (
    "function chomp(s::String)\n",
    'function chomp(s::String)\n    s == "yes!" && return SubString(s, 1, 3)\n',
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def test_what_is_told_is_what_a_build_does(bench: Bench) -> None:
    bench.edit(UTIL, *OTHER_TYPE)
    told = bench.json("impact")
    assert not (bench.storage.root / "images").exists()
    nodes = told["nodes"]
    root, callers = nodes[0], nodes[1:]
    assert (root["what"], root["path"], root["change"]) == ("Base.chomp(::String)", UTIL, "modified")
    assert [one["what"] for one in told["definitions"]["evaluated"]] == ["Base.chomp(::String)"]
    # Each hangs on one that is told before it, and what branches have in all is what they have one by one.
    assert all(0 <= one["callee"] < number for number, one in enumerate(callers, 1))
    assert root["branch"]["invalidated"] == sum(one["invalidated"] for one in nodes) == told["invalidated"]
    assert sum(counts["changed"] for counts in told["modules"].values()) == told["changed"]
    assert sum(one["invalidated"] for one in told["methods"]) == told["invalidated"]
    assert told["elsewhere"] == []
    asks = next(one for one in callers if one["what"] == "Base.prompt(::IO, ::IO, ::String; ...)")
    assert asks["callee"] == 0 and asks["path"] == "base/util.jl"
    assert any(one["callee"] == 0 and one["changed"] for one in callers)
    assert told["summary"] == (
        f"this edit invalidates {told['invalidated']} CodeInstances, {told['changed']} of which really change"
    )
    built = bench.chain()
    assert (told["invalidated"], told["recompiled"]) == (built["invalidated"], built["recompiled"])
    assert 0 < told["changed"] <= built["reinferred"] < told["invalidated"]
    bench.edit(UTIL, OTHER_TYPE[1], OTHER_TYPE[0])
    bench.edit(UTIL, *OTHER_BODY)
    told = bench.json("impact")
    assert (told["changed"], told["recompiled"]) == (0, 1) and told["invalidated"] == built["invalidated"]


def test_tree_for_people(bench: Bench) -> None:
    bench.edit(UTIL, *OTHER_TYPE)
    lines = bench.basedev("impact", "--depth", "1", "--width", "2").stdout.splitlines()
    assert "of which really change" in lines[0]
    top = next(number for number, line in enumerate(lines) if line.startswith("Base.chomp(::String)"))
    assert [line[:2] for line in lines[top + 1 : top + 4]] == ["  "] * 3 and " callers more" in lines[top + 3]
    assert {"Modules", "Most costly branches", "Methods that lose specializations"} <= set(lines)
    by_name = bench.basedev("impact", "--depth", "1", "--sort", "name", "--width", "500").stdout
    assert lines[top + 1] in by_name and by_name.index("Base.prompt") < by_name.index("REPL.hist_from_file")


def test_limits_for_continuous_integration(bench: Bench) -> None:
    assert bench.basedev("impact", "--at-most", "0").returncode == 0  # nothing is edited
    bench.edit(UTIL, *OTHER_TYPE)
    assert bench.basedev("impact", "--at-most", "100000", "--at-most-changed", "100").returncode == 0
    done = bench.basedev("impact", "--at-most-changed", "3")
    assert done.returncode == 5 and "CodeInstances changed, and 3 may be" in done.stderr
    told = bench.basedev("--json", "impact", "--at-most", "3")
    assert told.returncode == 5 and "3 may be" in json.loads(told.stdout)["errors"][0]["message"]


def test_ambiguities_and_specializations_that_go_elsewhere(bench: Bench) -> None:
    bench.append(UTIL, "\nendswith(a::SubString{String}, b::Any) = false\n")
    bench.append("base/path.jl", '\nisabspath(path::SubString{String}) = occursin(r"^/", path)\n')
    told = bench.json("impact")
    assert [
        "Base.endswith(::SubString{String}, ::Any) in strings/util.jl:706",
        "Base.endswith(::AbstractString, ::AbstractString) in strings/util.jl:41",
    ] in told["ambiguities"]
    added = {one["what"]: one for one in told["nodes"] if one.get("change") == "added"}
    path = "Base.Filesystem.isabspath(::SubString{String})"
    assert added[path]["overtaken"] == [{"what": path, "of": "Base.Filesystem.isabspath(::AbstractString)"}]
    assert sum(one["branch"]["invalidated"] for one in added.values()) == told["invalidated"]


def test_new_overwrites_are_told(bench: Bench) -> None:
    bench.append(UTIL, "\nchomp(s::String) = s\n")
    told = bench.basedev("--json", "impact", "--at-most", "100000")
    assert told.returncode == 5  # everything is made anew
    found = json.loads(told.stdout)
    assert found["overwrites"] == ["Base.chomp(::String) in strings/util.jl:192"]
    assert "is defined a second time" in found["full_rebuild_reason"]
    assert "New overwrites" in bench.basedev("impact").stdout


def test_two_commits(bench: Bench) -> None:
    git = ["git", "-C", str(bench.root), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    before = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    try:
        bench.append("base/arraymath.jl", "\nrot360(A::AbstractMatrix) = copy(A)\n")
        subprocess.run([*git, "commit", "-qam", "new"], check=True)
        bench.edit(UTIL, *OTHER_TYPE)
        subprocess.run([*git, "commit", "-qam", "edited"], check=True)
        both = bench.json("impact", "--compare", before, "HEAD")
        assert both["compared"][0] == before
        assert [one["change"] for one in both["definitions"]["evaluated"]] == ["added", "modified"]
        last = bench.json("impact", "--compare", "HEAD~", "HEAD")
        assert [one["what"] for one in last["definitions"]["evaluated"]] == ["Base.chomp(::String)"]
        assert (last["invalidated"], last["changed"]) == (both["invalidated"], both["changed"])
        assert bench.json("impact", "--compare", "HEAD", "HEAD")["invalidated"] == 0
    finally:
        subprocess.run([*git, "reset", "-q", "--hard", before], check=True)
    assert bench.basedev("impact", "--compare", "HEAD", "no-such-commit").returncode == 2


def some(name: str) -> Impact:
    """An impact of one edit with two callers, one of which calls the other."""
    last = Node(f"Base.{name}(::Int64)", "Base", "base/a.jl", 3, Counts(1, 0, 1, 0, 70), 1, Counts(1, 0, 1, 0, 70))
    first = Node(
        "Base.first(::Any)", "Base", "base/a.jl", 2, Counts(1, 1, 1, 1, 30), 1, Counts(2, 1, 2, 1, 100), [last]
    )
    change = Change("Base.f(::Any)", "Base", "base/a.jl", 1, Counts(), 0, Counts(2, 1, 2, 1, 100), [first])
    return Impact("base", "sources", changes=[change], recompiled=1)


def test_page_has_all_and_loads_nothing(tmp_path: Path) -> None:
    hostile = 'x</script><script>alert("&")</script><!--'
    text = page(some(hostile))
    assert text.count("</script>") == 2 and hostile not in text
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert [node[0] for node in json.loads(data)["nodes"]] == [
        "Base.f(::Any)",
        "Base.first(::Any)",
        f"Base.{hostile}(::Int64)",
    ]
    assert "default-src 'none'" in text
    for outside in ("src=", "url(", "@import", "fetch(", "<link"):
        assert outside not in text


def test_page_in_a_browser(bench: Bench, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here to show the page in ({', '.join(BROWSERS)})")
    bench.edit(UTIL, *OTHER_TYPE)
    file = tmp_path / "an impact.html"
    told = bench.json("impact", "--html", str(file))
    assert told["file"] == str(file)

    def shown(search: str) -> str:
        words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        words += ["--virtual-time-budget=3000", "--dump-dom", f"{file.as_uri()}#{search}"]
        done = subprocess.run([browser, *words], capture_output=True, text=True, check=True, timeout=120)
        assert 'data-ready="yes"' in done.stdout, done.stderr
        return done.stdout

    dom = shown("")
    assert f"<b>{told['changed']} of which really change</b>" in dom
    assert dom.count("<rect ") > 100 and ">Base.chomp(::String)</text>" in dom
    found = shown("hist_from_file%20::Any,%20::Any,%20::Any")
    assert ">1 function, 1 really change<" in found and "Invalidated because it calls" in found


def test_calls_with_keywords_are_told_as_such() -> None:
    assert spoken('Tuple{Base.var"##sort#7", Bool, typeof(Base.sort), Any}') == "Base.sort(::Any; ...)"
    assert (
        spoken('Tuple{Base.Sort.var"#sort##kw", NamedTuple{(:rev,), Tuple{Bool}}, typeof(Base.sort), Array{Any, 1}}')
        == "Base.sort(::Array{Any, 1}; ...)"
    )
    assert spoken("Tuple{typeof(Base.sort), Any}") == "Base.sort(::Any)"
    assert spoken('Tuple{Base.var"##s#7", Bool}') == '(::Base.var"##s#7")(::Bool)'
