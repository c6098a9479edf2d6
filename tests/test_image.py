"""What a chained image is: a plain system image with the base's native code, and nothing of ours in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conftest import Bench

from basedev.distribution import Distribution
from basedev.engines.stock15.baseimage import make_base_image
from basedev.engines.stock15.host_program import Host, host_program
from basedev.revision import Evaluate
from basedev.storage import Storage

BASE_TESTS = ("strings/basic", "strings/util", "dict", "iterators")

WHERE_IS_THE_CODE = r"""
function image_of(f, types)
    all = which(f, types).specializations
    for mi in (all[i] for i in 1:length(all) if isassigned(all, i))
        mi.specTypes === Base.signature_type(f, types) && isdefined(mi, :cache) || continue
        mi.cache.specptr == C_NULL && continue
        info = zeros(UInt8, 32)  # Dl_info: its first field is the file's name
        ccall(:dladdr, Cint, (Ptr{Cvoid}, Ptr{UInt8}), mi.cache.specptr, info) == 0 && return "JIT"
        return basename(unsafe_string(unsafe_load(Ptr{Ptr{UInt8}}(pointer(info)))))
    end
    "none"
end
for (f, types) in ((parse, (Type{Int}, String)), (joinpath, (String, String)), (chomp, (String,)))
    println(f, types, " ", image_of(f, types))
end
"""


def edit_chomp(bench: Bench) -> None:
    bench.edit(
        "base/strings/util.jl",
        "function chomp(s::String)\n    i = lastindex(s)",
        'function chomp(s::String)\n    s === "" && return SubString(s)\n    i = lastindex(s)',
    )


def native_signatures(julia: Distribution, image: Path) -> set[str]:
    with Host(host_program(julia, Storage(), lambda _: None), image, julia) as host:
        return set(host.native_signatures())


def test_everything_native_stays_native(bench: Bench, julia: Distribution) -> None:
    edit_chomp(bench)
    built = bench.chain()
    base = make_base_image(julia, Storage(), lambda *_: None)
    before, after = (native_signatures(julia, image) for image in (base.sysimage, Path(built["image"])))
    shipped = native_signatures(julia, julia.libraries / "julia/sys.so")
    assert before == shipped
    assert len(before) > 11000
    assert before <= after

    kept = bench.julia(built["image"], WHERE_IS_THE_CODE).splitlines()
    assert len(kept) == 3
    assert all(line.endswith(" sys.so") for line in kept), kept


def test_nothing_of_ours_is_inside(bench: Bench, julia: Distribution) -> None:
    edit_chomp(bench)
    image = Path(bench.chain()["image"])
    base = make_base_image(julia, Storage(), lambda *_: None).sysimage
    contents = image.read_bytes()
    for trace in (b"basedev", str(bench.root).encode(), str(bench.storage.root).encode()):
        assert trace not in contents

    everything = (
        "all_modules = Base.loaded_modules_array(); println(sort!(string.(all_modules)));"
        "println(names(Main, all=true));"
        "for m in all_modules; println(m, ' ', filter(n -> !occursin('#', string(n)), sort!(names(m, all=true)))) end;"
        "println(LOAD_PATH, DEPOT_PATH[2:end], ARGS, Base.ARGS, PROGRAM_FILE)"
    )
    assert bench.julia(image, everything) == bench.julia(base, everything)


def test_bases_own_tests_have_the_results_of_the_base_image(bench: Bench) -> None:
    def results(output: str) -> list[str]:
        """Passed, failed and broken tests by file, without times and memory."""
        return sorted(
            re.sub(r"\s+", " ", line) for line in output.splitlines() if re.match(r"\s*(Overall|SUCCESS)", line)
        )

    before = bench.basedev("test", *BASE_TESTS)
    edit_chomp(bench)
    bench.append("base/dict.jl", "\nhaskey(d::Dict, ::Nothing, ::Nothing) = false\n")
    after = bench.basedev("test", *BASE_TESTS)
    assert before.returncode == 0, before.stdout + before.stderr
    assert after.returncode == 0, after.stdout + after.stderr
    assert "chained" not in before.stderr
    passed = results(before.stdout)
    assert passed and passed == results(after.stdout)


def test_stack_traces_name_the_edited_lines(bench: Bench) -> None:
    bench.append("base/strings/util.jl", '\n\nfunction fails(s)\n    s == 1 && return\n    error("on purpose")\nend\n')
    lines = (bench.root / "base/strings/util.jl").read_text().splitlines()
    line = 1 + lines.index('    error("on purpose")')
    built = bench.chain()
    command = [bench.root / "usr/bin/julia", "-J", built["image"], "-e", "Base.fails(2)"]
    done = subprocess.run(command, env=bench.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"fails(::Int64) at ./strings/util.jl:{line}" in done.stderr


def test_kept_parsed_statements_are_what_the_parser_makes(julia: Distribution, tmp_path: Path) -> None:
    text = r"""const probed = (@__LINE__, 1, -2.5, 1.5f0, 0x12, 0x1234, 0x12345678, 'c', "s$(1 + 1)", :(a.b[1] = $(:c)),
        :x, nothing, true, 0x123456789, `ls -l`, r"e", (@__LINE__, @__FILE__), [x^2 for x in 1:2], :(:y))"""
    uncommon = "const uncommon = (100000000000000000000, 0x123456789abcdef0123, @__LINE__)"
    base, program = make_base_image(julia, Storage(), lambda *_: None), host_program(julia, Storage(), lambda _: None)
    own = [Evaluate("Base", "probe.jl", line, statement) for statement in (text, uncommon) for line in (7, 8)]
    entries = [entry for entry in base.census.entries if not entry.fails][::5]
    statements = [entry.evaluation(base.files) for entry in entries]
    with Host(program, base.sysimage, julia) as host:
        host.keep_parsed(own[::2], tmp_path / "trees.bin")
        parsed_now, again = host.results([], own), host.results([], statements)
    assert len(set(parsed_now)) == 4  # lines count
    with Host(program, base.sysimage, julia, parsed=tmp_path / "trees.bin") as host:
        assert host.results([], own) == parsed_now
    with Host(program, base.sysimage, julia, parsed=base.trees) as host:
        given = host.results([], statements)
    same = {entry.text for entry, digest in zip(entries, again, strict=True) if digest == entry.digest}  # not the time
    assert len(same) > 1000
    assert same <= {entry.text for entry, digest in zip(entries, given, strict=True) if digest == entry.digest}
