"""Object files and tables: what readelf, pyelftools, lief and the linkers make of them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import lief
import pytest
from conftest import Bench
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import given, settings
from hypothesis import strategies as st

from basedev import elf, link
from basedev.distribution import Distribution
from basedev.errors import InternalError, SetupError
from basedev.link import ImageTables

TARGET = bytes(range(40))
HEAP = b"heap of a system image" * 1000
FUNCTIONS = """
.text
.globl jlf_1, jlf_2, jlf_3
jlf_1: ret
.skip 100
jlf_2: ret
jlf_3: mov jlg_2(%rip), %rax
ret
.section .note.GNU-stack,"",@progbits
"""
INSTALLED = [name for name in link.LINKERS if shutil.which(f"ld.{name}")]


def data_object(path: Path, contents: bytes, symbol: str = "the_data") -> Path:
    path.write_bytes(bytes(elf.ELF_HEADER_SIZE) + contents)
    elf.finish_data_object(path, symbol)
    return path


def readelf(path: Path) -> str:
    """All that readelf shows. Fails at its warnings too."""
    done = subprocess.run(
        ["readelf", "-aW", path], env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


@settings(max_examples=25, deadline=None)
@given(contents=st.binary(min_size=1, max_size=300), symbol=st.from_regex(r"[a-z_]{1,20}", fullmatch=True))
def test_data_object(contents: bytes, symbol: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = data_object(Path(directory) / "data.o", contents, symbol)
        assert "REL (Relocatable file)" in readelf(path)
        with path.open("rb") as file:
            read = ELFFile(file)
            section = read.get_section(1)
            assert section.data() == contents
            assert section["sh_addralign"] == 64 and section["sh_offset"] % 64 == 0
            table = read.get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            (found,) = table.get_symbol_by_name(symbol) or []
            assert (found["st_shndx"], found["st_value"], found["st_size"]) == (1, 0, len(contents))
        assert lief.ELF.parse(os.fspath(path)) is not None


@pytest.mark.parametrize("name", INSTALLED)
def test_linked_data_are_the_bytes(tmp_path: Path, name: str) -> None:
    contents = os.urandom(100_001)
    made = data_object(tmp_path / "data.o", contents)
    library = tmp_path / "library.so"
    subprocess.run(["gcc", "-shared", "-nostdlib", f"-fuse-ld={name}", "-o", library, made], check=True)
    assert elf.ImageSymbols(library).contents("the_data") == contents


@pytest.fixture(params=INSTALLED)
def image(request: pytest.FixtureRequest, julia: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of three functions and five slots, by each linker that is installed."""
    monkeypatch.setattr(link, "LINKERS", (request.param,))
    link.linker.cache_clear()
    try:
        return link_small_image(tmp_path, julia, FUNCTIONS)
    finally:
        link.linker.cache_clear()


def link_small_image(directory: Path, julia: Distribution, functions: str) -> Path:
    source, compiled, heap = directory / "code.s", directory / "code.o", directory / "heap.o"
    source.write_text(functions)
    subprocess.run(["as", source, "-o", compiled], check=True)
    heap.write_bytes(bytes(elf.ELF_HEADER_SIZE) + HEAP)
    work = directory / "work"
    work.mkdir()
    output = directory / "image.so"
    libjulia = julia.libraries / "libjulia.so.1"
    link.link_image(output, [compiled], heap, ImageTables(3, 5, TARGET), libjulia=libjulia, workdir=work)
    return output


def test_tables_of_an_image(image: Path) -> None:
    readelf(image)
    parsed = lief.ELF.parse(os.fspath(image))
    assert isinstance(parsed, lief.ELF.Binary)
    addresses = {str(symbol.name): int(symbol.value) for symbol in parsed.dynamic_symbols}

    def table(name: str, size: int) -> bytes:
        return bytes(parsed.get_content_from_virtual_address(addresses[name], size))

    assert table("jl_system_image_data", len(HEAP)) == HEAP
    assert addresses["jl_system_image_data"] % 64 == 0
    assert struct.unpack("<Q", table("jl_system_image_size", 8)) == (len(HEAP),)
    assert table("jl_dispatch_target_ids", len(TARGET)) == TARGET
    assert struct.unpack("<6I", table("jl_sysimg_gvars_offsets", 24)) == (5, 0, 8, 16, 24, 32)
    count, *offsets = struct.unpack("<I3i", table("jl_sysimg_fvars_offsets", 16))
    assert count == 3
    first, second, third = (addresses["jl_sysimg_fvars_base"] + offset for offset in offsets)
    assert bytes(parsed.get_content_from_virtual_address(first, 1)) == b"\xc3"
    assert second - first == 101 and third - second == 1


def test_only_the_loaders_names_are_exported(image: Path) -> None:
    parsed = lief.ELF.parse(os.fspath(image))
    assert isinstance(parsed, lief.ELF.Binary)
    exported = {str(symbol.name) for symbol in parsed.dynamic_symbols}
    assert {"jl_system_image_data", "jl_sysimg_fvars_base", "jl_sysimg_gvars_base", "jl_globalUnique"} <= exported
    assert not any(name.startswith(("jlf_", "jlg_", "jlp_")) for name in exported)


def test_code_refers_to_its_slot(image: Path) -> None:
    """The third function reads the second slot."""
    shown = subprocess.run(["objdump", "-d", image], capture_output=True, text=True, check=True).stdout
    parsed = lief.ELF.parse(os.fspath(image))
    assert isinstance(parsed, lief.ELF.Binary)
    (slots,) = [int(symbol.value) for symbol in parsed.dynamic_symbols if symbol.name == "jl_sysimg_gvars_base"]
    assert f"# {slots + 8:x}" in shown


def test_code_that_refers_to_nothing_is_no_image(julia: Distribution, tmp_path: Path) -> None:
    """A function that the table names and no object has."""
    with pytest.raises(InternalError, match="gcc exited with 1") as caught:
        link_small_image(tmp_path, julia, FUNCTIONS.replace("jlf_3", "jlf_4"))
    assert "jlf_3" in caught.value.detail
    assert not (tmp_path / "image.so").exists()


def test_chained_image_is_well_formed(bench: Bench) -> None:
    bench.append("base/strings/util.jl", "\nwell_formed(s::String) = s\n")
    image = Path(bench.chain()["image"])
    readelf(image)
    parsed = lief.ELF.parse(os.fspath(image))
    assert isinstance(parsed, lief.ELF.Binary)
    assert next(iter(parsed.libraries)) == "libjulia.so.1"
    symbols = {str(symbol.name): int(symbol.value) for symbol in parsed.dynamic_symbols}
    at = symbols["jl_sysimg_fvars_offsets"]
    (fvars,) = struct.unpack("<I", bytes(parsed.get_content_from_virtual_address(at, 4)))
    table = bytes(parsed.get_content_from_virtual_address(at + 4, 4 * fvars))
    code = [segment for segment in parsed.segments if segment.has(lief.ELF.Segment.FLAGS.X)]
    for (offset,) in struct.iter_unpack("<i", table):
        address = symbols["jl_sysimg_fvars_base"] + offset
        assert any(s.virtual_address <= address < s.virtual_address + s.virtual_size for s in code)


@pytest.mark.parametrize(("contents", "why"), [(b"", "can't be read"), (b"text", "can't be read")])
def test_what_is_no_image_is_told_so(tmp_path: Path, contents: bytes, why: str) -> None:
    path = tmp_path / "sys.so"
    path.write_bytes(contents)
    with pytest.raises(SetupError, match=why):
        elf.ImageSymbols(path).contents("jl_dispatch_target_ids")


def test_libraries_that_are_no_image_are_told_so(julia: Distribution) -> None:
    with pytest.raises(SetupError, match="has no symbol jl_dispatch_target_ids"):
        elf.ImageSymbols(julia.libraries / "libjulia.so.1").contents("jl_dispatch_target_ids")
    with pytest.raises(SetupError, match="can't be read"):
        elf.ImageSymbols(julia.prefix / "nowhere").contents("jl_dispatch_target_ids")


def test_first_target_of_the_shipped_image_is_the_only_one_of_ours(julia: Distribution) -> None:
    shipped = elf.ImageSymbols(julia.libraries / "julia/sys.so").contents("jl_dispatch_target_ids")
    ours = link.only_generic_target(julia.libraries / "julia/sys.so")
    assert struct.unpack_from("<I", ours) == (1,)
    assert b"generic" in ours and shipped[4:].startswith(ours[4:])


def test_without_a_linker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    link.linker.cache_clear()
    with pytest.raises(SetupError, match="no linker found; install the package binutils"):
        link.linker()
    link.linker.cache_clear()
