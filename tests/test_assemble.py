"""Images that are put together without a linker do what the linker's do."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lief
import pytest
from conftest import Bench
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basedev import elf, link
from basedev.assemble import Contents, assemble
from basedev.distribution import Distribution
from basedev.errors import InternalError
from basedev.link import ImageTables
from basedev.pieces import Range
from basedev.prelinked import Prelinked, library_names
from basedev.relocate import NeedsLinker

TARGET = bytes(range(40))
HEAP, NEW_HEAP = b"heap of a base image" * 1000, b"heap of a chained image" * 1500
INSTALLED = [name for name in link.LINKERS if shutil.which(f"ld.{name}")]

OLD = """
.text
.globl jlf_1, jlf_2, jlf_3
.balign 16
jlf_1: .cfi_startproc
mov $1, %eax
ret
.cfi_endproc
.balign 16
jlf_2: .cfi_startproc
sub $8, %rsp
.cfi_adjust_cfa_offset 8
call jlf_1
add $10, %eax
add $8, %rsp
.cfi_adjust_cfa_offset -8
ret
.cfi_endproc
.balign 16
jlf_3: .cfi_startproc
mov jlg_2(%rip), %rax
ret
.cfi_endproc
call getpid@PLT
call cos@PLT
.section .note.GNU-stack,"",@progbits
"""

NEW = """
.text
.balign 16
.globl jlf_4
.hidden jlf_1, jlf_2, jlf_3, jlf_4, jlg_1, jlg_2, jlg_3, jlg_4, jlg_5, jlg_6, jlg_7
.type jlf_4, @function
jlf_4: .cfi_startproc
sub $8, %rsp
.cfi_adjust_cfa_offset 8
{body}
add $8, %rsp
.cfi_adjust_cfa_offset -8
ret
.cfi_endproc
.size jlf_4, . - jlf_4
{rest}
.section .note.GNU-stack,"",@progbits
"""

KINDS = {
    "old slot": ("mov jlg_2(%rip), %rax", ""),
    "new slots": ("mov jlg_6(%rip), %rax\nadd jlg_7(%rip), %rax", ""),
    "old function": ("call jlf_2", ""),
    "old function through a stub": ("call jlf_2@PLT", ""),
    "address of an old function": ("mov jlf_2@GOTPCREL(%rip), %rax\ncall *%rax", ""),
    "other library": ("call getppid@PLT", ""),
    "other library, twice": ("call getppid@PLT\ncall getppid@PLT", ""),
    "address in another library": ("mov getppid@GOTPCREL(%rip), %rax\ncall *%rax", ""),
    "jump through an address": ("call *getppid@GOTPCREL(%rip)", ""),
    "what has several versions": ("mov exp@GOTPCREL(%rip), %rax\nsub pow@GOTPCREL(%rip), %rax", ""),
    "libjulia": ("mov jl_box_int64@GOTPCREL(%rip), %rax\nsub jl_unbox_int64@GOTPCREL(%rip), %rax", ""),
    "what the base image has of libjulia": (
        "mov jl_RTLD_DEFAULT_handle@GOTPCREL(%rip), %rax\nsub jl_unbox_int64@GOTPCREL(%rip), %rax",
        "",
    ),
    "own function": ("call own", "own: mov $77, %eax\nret"),
    "address of an own function": ("mov own@GOTPCREL(%rip), %rax\ncall *%rax", "own: mov $78, %eax\nret"),
    "constants": ("mov number(%rip), %rax", '.section .rodata.cst8,"aM",@progbits,8\n.balign 8\nnumber: .quad 79'),
    "strings": ("movzbl text+2(%rip), %eax", '.section .rodata.str1.1,"aMS",@progbits,1\ntext: .string "text"'),
    "data": ("addl $5, number(%rip)\nmov number(%rip), %eax", ".data\n.long 0\nnumber: .long 80"),
    "zeros": ("addl $81, number(%rip)\nmov number(%rip), %eax", ".bss\n.balign 32\nnumber: .skip 100"),
    "pointer to an own function": ("call *pointer(%rip)", "own: mov $82, %eax\nret\n.data\npointer: .quad own"),
    "pointer to an old function": ("call *pointer(%rip)", ".data\n.balign 8\npointer: .quad jlf_2"),
    "pointer into another library": ("call *pointer(%rip)", ".data\n.balign 8\npointer: .quad getppid"),
    "pointer inside data": ("mov pointer(%rip), %rax\nmov 8(%rax), %rax", ".data\npointer: .quad pointer\n.quad 83"),
    "distance of 64 bits": (
        "lea far(%rip), %rax\nadd (%rax), %rax\ncall *%rax",
        "own: mov $84, %eax\nret\n.section .rodata\n.balign 8\nfar: .quad own - .",
    ),
    "jump table": (
        "lea table(%rip), %rax\nmovslq (%rax), %rcx\nadd %rcx, %rax\ncall *%rax",
        "own: mov $85, %eax\nret\n.section .rodata\n.balign 4\ntable: .long own - table",
    ),
    "weak": ("call chosen", ".weak chosen\n.hidden chosen\nchosen: mov $86, %eax\nret"),
}

# Loads an image, fills some slots, and prints what functions give.
CALL = """
import ctypes, json, struct, sys
image = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
def table(name):
    at = ctypes.addressof(ctypes.c_char.in_dll(image, f"jl_sysimg_{name}_offsets"))
    base = ctypes.addressof(ctypes.c_char.in_dll(image, f"jl_sysimg_{name}_base"))
    (count,) = struct.unpack("<I", ctypes.string_at(at, 4))
    return [base + offset for offset in struct.unpack(f"<{count}i", ctypes.string_at(at + 4, 4 * count))]
functions, slots = table("fvars"), table("gvars")
for n, slot in enumerate(slots):
    assert not any(ctypes.string_at(slot, 8))
    ctypes.memmove(slot, struct.pack("<Q", 1000 + n), 8)
call = ctypes.CFUNCTYPE(ctypes.c_int64)
size = ctypes.c_uint64.in_dll(image, "jl_system_image_size").value
heap = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(image, "jl_system_image_data")), size)
print(json.dumps([[call(one)() for one in functions], len(slots), len(set(slots)), heap.hex()]))
"""


@dataclass(repr=False)
class Ground:
    """A small base image of three functions and five slots."""

    image: Prelinked
    old: Path
    julia: Distribution
    directory: Path

    def objects(self, *sources: str, options: Sequence[str] = ()) -> list[Path]:
        made = []
        for number, source in enumerate(sources):
            path = self.directory / f"new.{number}.o"
            subprocess.run(["as", *options, "-o", path], input=source, text=True, check=True)
            made.append(path)
        return made

    def library_names(self) -> dict[str, tuple[str, str | None]]:
        return library_names(link.libraries(self.julia.libraries / "libjulia.so.1"))

    def assemble(
        self, objects: Sequence[Path], fvars: int = 4, gvars: int = 7, replaced: Sequence[tuple[int, int]] = ()
    ) -> Path:
        output = self.directory / "assembled.so"
        assemble(output, self.image, Contents([NEW_HEAP], fvars, gvars, objects, replaced), self.library_names)
        return output

    def link(
        self, objects: Sequence[Path], fvars: int = 4, gvars: int = 7, replaced: Sequence[tuple[int, int]] = ()
    ) -> Path:
        output, heap, work = self.directory / "linked.so", self.directory / "heap.o", self.directory / "work"
        heap.write_bytes(bytes(elf.ELF_HEADER_SIZE) + NEW_HEAP)
        work.mkdir(exist_ok=True)
        libjulia = self.julia.libraries / "libjulia.so.1"
        tables = ImageTables(fvars, gvars, TARGET)
        link.link_image(output, [self.old, *objects], heap, tables, libjulia=libjulia, workdir=work)
        elf.redirect(output, replaced)
        return output

    def run(self, program: str, image: Path) -> str:
        environment = {**os.environ, "LD_LIBRARY_PATH": os.fspath(self.julia.libraries), "LD_BIND_NOW": "1"}
        command: list[str | Path] = [sys.executable, "-c", program, image]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


def make_ground(directory: Path, julia: Distribution) -> Ground:
    old, linked, base = (directory / name for name in ("old.o", "linked-base.so", "base.so"))
    subprocess.run(["as", "-o", old], input=OLD, text=True, check=True)
    work = directory / "work"
    work.mkdir()
    libjulia = julia.libraries / "libjulia.so.1"
    link.link_image(linked, [old], None, ImageTables(3, 5, TARGET), libjulia=libjulia, workdir=work)
    names = library_names(link.libraries(libjulia))
    known = assemble(base, Prelinked.read(linked), Contents([HEAP], 3, 5), lambda: names)
    known.write(directory / "prelinked.json")
    linked.unlink()
    return Ground(Prelinked.kept(directory / "prelinked.json", base), old, julia, directory)


@pytest.fixture(scope="module", params=INSTALLED)
def any_ground(request: pytest.FixtureRequest, julia: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """By each linker that is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "LINKERS", (request.param,))
        link.linker.cache_clear()
        try:
            return make_ground(tmp_path_factory.mktemp("ground"), julia)
        finally:
            link.linker.cache_clear()


@pytest.fixture(scope="module")
def ground(julia: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"), julia)


def well_formed(image: Path) -> ELFFile:
    """Fails at readelf's warnings too."""
    done = subprocess.run(["readelf", "-aW", image], env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    parsed = lief.ELF.parse(os.fspath(image))
    assert isinstance(parsed, lief.ELF.Binary)
    read = ELFFile(io.BytesIO(image.read_bytes()))
    loaded = [one.header for one in read.iter_segments() if one["p_type"] == "PT_LOAD"]
    for one in loaded:
        assert one["p_offset"] % 4096 == one["p_vaddr"] % 4096
        assert one["p_memsz"] >= one["p_filesz"]
        assert one["p_offset"] + one["p_filesz"] <= image.stat().st_size
        assert not (one["p_flags"] & 1 and one["p_flags"] & 2)  # what is written is not run
    for before, after in itertools.pairwise(loaded):
        assert before["p_vaddr"] + before["p_memsz"] <= after["p_vaddr"]
        assert before["p_offset"] + before["p_filesz"] <= after["p_offset"]
    sections = [one for one in read.iter_sections() if one["sh_type"] not in ("SHT_NULL", "SHT_NOBITS")]
    places = sorted((one["sh_offset"], one["sh_offset"] + one["sh_size"]) for one in sections)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
    for section in sections:
        if section["sh_flags"] & 2 and section["sh_size"]:
            (header,) = [s for s in loaded if s["p_vaddr"] <= section["sh_addr"] < s["p_vaddr"] + s["p_memsz"]]
            assert section["sh_addr"] - header["p_vaddr"] == section["sh_offset"] - header["p_offset"]
    return read


def test_base_image_of_every_linker(any_ground: Ground) -> None:
    well_formed(any_ground.image.path)
    (first, second, third), *slots, heap = json.loads(any_ground.run(CALL, any_ground.image.path))
    assert (first, second, third, slots, bytes.fromhex(heap)) == (1, 11, 1001, [5, 5], HEAP)


def test_layer_on_every_linkers_image(any_ground: Ground) -> None:
    objects = any_ground.objects(NEW.format(body="call getppid@PLT\nadd jlg_6(%rip), %rax\ncall jlf_2", rest=""))
    image = any_ground.assemble(objects)
    well_formed(image)
    results, *slots, heap = json.loads(any_ground.run(CALL, image))
    assert (results, slots, bytes.fromhex(heap)) == ([1, 11, 1001, 11], [7, 7], NEW_HEAP)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [(), ("-mrelax-relocations=no",)], ids=["relaxed", "plain"])
def test_kinds_of_reference(ground: Ground, kind: str, options: tuple[str, ...]) -> None:
    body, rest = KINDS[kind]
    objects = ground.objects(NEW.format(body=body, rest=rest), options=options)
    image = ground.assemble(objects)
    well_formed(image)
    ours, theirs = (ground.run(CALL, one) for one in (image, ground.link(objects)))
    assert ours == theirs


def test_several_objects_refer_to_each_other(ground: Ground) -> None:
    first = NEW.format(
        body="call jlf_5\nadd shared(%rip), %rax", rest=".bss\n.globl shared\n.hidden shared\nshared: .quad 0"
    )
    second = NEW.replace("jlf_4", "jlf_5").format(body="movl $5, shared(%rip)\nmov $100, %eax", rest=".hidden shared")
    objects = ground.objects(first, second)
    image = ground.assemble(objects, fvars=5)
    well_formed(image)
    assert ground.run(CALL, image) == ground.run(CALL, ground.link(objects, fvars=5))


def test_nothing_new_but_the_heap(ground: Ground) -> None:
    image = ground.assemble([], fvars=3, gvars=5)
    well_formed(image)
    results, *_, heap = json.loads(ground.run(CALL, image))
    assert (results, bytes.fromhex(heap)) == ([1, 11, 1001], NEW_HEAP)


def test_old_callers_reach_what_replaced_a_function(ground: Ground) -> None:
    objects = ground.objects(NEW.format(body="mov $500, %eax", rest=""))
    image = ground.assemble(objects, replaced=[(1, 4)])
    assert json.loads(ground.run(CALL, image))[0] == [500, 510, 1001, 500]
    assert ground.run(CALL, image) == ground.run(CALL, ground.link(objects, replaced=[(1, 4)]))


# Has a function call back, and prints from where, seen from inside: the unwinder goes by the descriptions of frames.
UNWIND = """
import ctypes, struct, sys
image = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
at, base = (ctypes.addressof(ctypes.c_char.in_dll(image, f"jl_sysimg_fvars_{name}")) for name in ("offsets", "base"))
(count,) = struct.unpack("<I", ctypes.string_at(at, 4))
functions = [base + offset for offset in struct.unpack(f"<{count}i", ctypes.string_at(at + 4, 4 * count))]
def back():
    frames = (ctypes.c_void_p * 100)()
    n = ctypes.CDLL(None).backtrace(frames, 100)
    begins = [max([one for one in functions if one < frame], default=0) for frame in frames[:n]]
    seen = [(functions.index(one) + 1, frame - one) for frame, one in zip(frames, begins) if one and frame - one < 80]
    print(seen, n > 10, frames[n - 1] is not None)
callback = ctypes.CFUNCTYPE(None)(back)
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions[-1])(ctypes.cast(callback, ctypes.c_void_p))
"""


@pytest.mark.parametrize("parts", [1, 2])
def test_frames_of_new_code_are_unwound(ground: Ground, parts: int) -> None:
    # The second calls the first, which calls back, both without a frame pointer.
    inner = NEW.format(
        body="sub $48, %rsp\n.cfi_adjust_cfa_offset 48\ncall *%rdi\nadd $48, %rsp\n.cfi_adjust_cfa_offset -48", rest=""
    )
    outer = NEW.replace("jlf_4", "jlf_5").format(
        body="sub $80, %rsp\n.cfi_adjust_cfa_offset 80\ncall jlf_4\nadd $80, %rsp\n.cfi_adjust_cfa_offset -80",
        rest=".hidden jlf_4",
    )
    if parts == 1:
        body = outer.replace('.section .note.GNU-stack,"",@progbits', "").replace(".hidden jlf_4", "")
        objects = ground.objects(inner + body)
    else:
        objects = ground.objects(inner, outer)
    ours, theirs = ground.assemble(objects, fvars=5), ground.link(objects, fvars=5)
    told = ground.run(UNWIND, ours)
    assert told == ground.run(UNWIND, theirs)
    assert told == "[(4, 10), (5, 13)] True True\n"


def test_debug_information_of_new_code_is_found(ground: Ground) -> None:
    source = ground.directory / "edited.c"
    source.write_text("extern int jlf_2(void);\n\nint jlf_4(void) {\n  int x = jlf_2();\n  return x + 1;\n}\n")
    made = ground.directory / "debug.o"
    options = ["-g", "-gdwarf-4", "-O1", "-fPIC", "-fvisibility=hidden"]
    subprocess.run(["gcc", "-c", *options, source, "-o", made], check=True)
    image = ground.assemble([made])
    read = well_formed(image)
    dwarf = read.get_dwarf_info()
    (unit,) = dwarf.iter_CUs()
    assert unit.get_top_DIE().attributes["DW_AT_name"].value == os.fsencode(source)
    symbols = read.get_section_by_name(".symtab")
    assert isinstance(symbols, SymbolTableSection)
    names = {one.name: one["st_value"] for one in symbols.iter_symbols()}
    lines = dwarf.line_program_for_CU(unit)
    assert lines is not None
    found = [entry.state.line for entry in lines.get_entries() if entry.state and entry.state.address == names["jlf_4"]]
    assert 3 in found


REFUSED = {
    "thread-local storage": (
        "mov number@GOTTPOFF(%rip), %rax",
        '.section .tbss,"awT",@nobits\nnumber: .skip 8',
        "kind",
    ),
    "absolute address": ("movabs $jlf_4, %rax", "", "read-only"),
    "address of 32 bits": ("mov $jlf_4, %eax", "", "type 10"),
    "common symbol": ("mov number@GOTPCREL(%rip), %rax", ".comm number, 8, 8", "unusual kind"),
    "initialisers": ("nop", '.section .init_array,"aw",@init_array\n.quad jlf_4', "init_array"),
    "group": ("nop", '.section .text.f,"axG",@progbits,f,comdat\nnop', "unusual kind"),
    "indirect function": ("call own", ".type own, @gnu_indirect_function\nown: ret", "unusual kind"),
    "unknown name": ("call nobody_has_this@PLT", "", "in no library"),
    "unknown function of the image": ("call jlf_9", ".hidden jlf_9", "in no library"),
    "unknown slot": ("mov jlg_8(%rip), %rax", ".hidden jlg_8", "in no library"),
    "weak reference": ("mov maybe@GOTPCREL(%rip), %rax", ".weak maybe", "in no library"),
    "another library's variable": ("mov environ(%rip), %rax", "", "directly"),
    "address in a constant": ("nop", ".section .rodata\n.quad jlf_4", "read-only"),
    "personality": (
        "nop",
        "own: .cfi_startproc\n.cfi_personality 0x9b, pointer\nret\n.cfi_endproc\n.data\npointer: .quad 0",
        "unusual form",
    ),
    "number": ("lea fixed(%rip), %rax", ".globl fixed\n.hidden fixed\n.set fixed, 87", "left out"),
    "wide alignment": ("nop", ".data\n.balign 65536\n.quad 1", "alignment"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_left_to_a_linker(ground: Ground, kind: str) -> None:
    body, rest, why = REFUSED[kind]
    output = ground.directory / "assembled.so"
    output.unlink(missing_ok=True)
    with pytest.raises(NeedsLinker, match=why):
        ground.assemble(ground.objects(NEW.format(body=body, rest=rest)))
    assert not output.exists()


def test_functions_that_no_object_has(ground: Ground) -> None:
    with pytest.raises(NeedsLinker, match="no object has jlf_5"):
        ground.assemble(ground.objects(NEW.format(body="nop", rest="")), fvars=5)


def test_a_name_that_two_objects_have(ground: Ground) -> None:
    source = NEW.format(body="nop", rest="")
    with pytest.raises(NeedsLinker, match="jlf_4 is defined twice"):
        ground.assemble(ground.objects(source, source))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_objects(ground: Ground, data: st.DataObject) -> None:
    """They are refused, or assembled when what is damaged does not matter; nothing is left where they are refused."""
    body, rest = KINDS["jump table"]
    (made,) = ground.objects(NEW.format(body=body, rest=rest))
    contents = bytearray(made.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.sampled_from([0, 1, 4, 0x7F, 0x80, 0xFF]))
    end = data.draw(st.one_of(st.none(), st.integers(0, len(contents) - 1)))
    made.write_bytes(contents[:end])
    output = ground.directory / "assembled.so"
    output.unlink(missing_ok=True)
    try:
        ground.assemble([made])
    except NeedsLinker:
        assert not output.exists()
    else:
        assert output.exists()


def test_a_heap_that_is_cut_short(ground: Ground, tmp_path: Path) -> None:
    heap, output = tmp_path / "heap", tmp_path / "sys.so"
    heap.write_bytes(HEAP)
    contents = Contents([Range(heap, 0, len(HEAP) + 1)], 3, 5)
    with pytest.raises(InternalError, match="heap ends at"):
        assemble(output, ground.image, contents, ground.library_names)
    assert not output.exists()


TRACES = r"""
function trace(f, arguments...)
    try
        f(arguments...)
        println("nothing thrown")
    catch error
        showerror(stdout, error, catch_backtrace())
        println()
    end
end
println(repr(chomp("text\n")), repr(lpad("text", 9)), repr(chomp(SubString("text\n\n", 1, 6))))
println(repr(read(`echo text`, String)), repr(readchomp(`echo text`)), repr(string(7, pad = 5)))
trace(lpad, "text", 12345 + 4)
trace(rpad, "text", 12345 + 4)
trace(chomp, "a" ^ 12345)
trace(readchomp, IOBuffer("a" ^ 12345))
trace(x -> [chomp(y) for y in x], ["a" ^ 12345])
trace(Base.brand_new, "text")
trace(Base.brand_new, 1.5)
trace(sqrt, -1.0)
trace(parse, Int, "text")
trace(sort, [1, "text"])
for frame in stacktrace(backtrace())
    println(frame)
end
println(Base.brand_new(4), Base.brand_new(big(4)), sum(Base.brand_new, 2:10))
"""


def edit_much(bench: Bench) -> None:
    """New code that is called by old, calls old, throws, and is called by new code."""
    path = "base/strings/util.jl"
    for side in ("l", "r"):
        old = f"function {side}pad(\n    s::Union{{AbstractChar,AbstractString}},\n    n::Integer,\n"
        text = (bench.root / path).read_text()
        begin = text.index(old)
        place = text.index("    m = signed(n) - length(s)\n", begin)
        check = "    signed(n) - length(s) == 12345 && throw(ArgumentError(string(s, n)))\n"
        (bench.root / path).write_text(text[:place] + check + text[place:])
    bench.edit(
        path,
        "function chomp(s::String)\n    i = lastindex(s)",
        'function chomp(s::String)\n    ncodeunits(s) == 12345 && error("too long")\n    i = lastindex(s)',
    )
    bench.append(
        path,
        "\nbrand_new(n) = n isa String ? chomp(n ^ 12345 * n) : newer(n)\n\n"
        "@noinline function newer(n)\n    n < 2 && throw(DomainError(n))\n    exp2(float(n)) + cbrt(27.0)\nend\n"
        "precompile(brand_new, (Int,))\nprecompile(brand_new, (String,))\n",
    )


def forget_images(bench: Bench) -> None:
    shutil.rmtree(bench.storage.root / "images")


def test_both_ways_give_the_same_image(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_much(bench)
    assembled = bench.chain()
    assert (assembled["linker"], assembled["linker_reason"]) == ("none", None)
    assert assembled["recompiled"] > 10
    well_formed(Path(assembled["image"]))
    ours = bench.julia(assembled["image"], TRACES)
    forget_images(bench)
    monkeypatch.setenv("BASEDEV_LINK", "linker")
    linked = bench.chain()
    assert (linked["linker"], linked["linker_reason"]) == (link.linker(), "BASEDEV_LINK says so")
    same = ("recompiled", "invalidated", "image_id", "definitions")
    assert [assembled[key] for key in same] == [linked[key] for key in same]
    theirs = bench.julia(linked["image"], TRACES)
    assert ours == theirs
    assert "too long" in ours and "./strings/util.jl:" in ours and "newer(::Float64)" in ours


def test_an_image_without_new_code(bench: Bench) -> None:
    bench.append("base/strings/util.jl", "\nwithout_code(x) = x\n")
    built = bench.chain()
    assert (built["linker"], built["recompiled"]) == ("none", 0)
    well_formed(Path(built["image"]))
    assert bench.julia(built["image"], 'println(Base.without_code(1), chomp("a"), string(12))') == "1a12\n"


def test_plain_programs_load_an_image(bench: Bench, julia: Distribution) -> None:
    edit_much(bench)
    image = bench.chain()["image"]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.fspath(julia.libraries), "LD_BIND_NOW": "1"}
    program = (
        "import ctypes, sys; print(ctypes.c_uint64.in_dll(ctypes.CDLL(sys.argv[1]), 'jl_system_image_size').value)"
    )
    command = [sys.executable, "-c", program, image]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    with Path(image).open("rb") as file:
        (heap,) = [one for one in ELFFile(file).iter_sections() if one.name == ".layer.heap"]
        assert int(told) == heap["sh_size"] > 100_000_000
    listed = subprocess.run(["ldd", image], env=environment, capture_output=True, text=True, check=True).stdout
    assert "libjulia.so.1 => " in listed and "not found" not in listed
