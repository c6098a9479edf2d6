"""Patches of Julia's runtime: anchors, marks, and what `basedev patch` does to a tree.

Most tests are on small files that are made up here. Those at the end are on a checkout of current Julia, if
BASEDEV_MODERN_JULIA names one.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import git
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basedev import anchors, patches
from basedev.errors import InternalError, SetupError, UserCodeError
from basedev.mails import mails
from basedev.patches import Series, load_series, series_for, tree_reader

SOURCE = """\
#include "made-up.h"

static int count(int n); // a declaration is no definition

// count(n) in a comment { is none either
static int count(int n)
{
    int sum = 0; /* sum = 0; */
    for (int i = 0; i < n; i++)
        sum += weigh(i, "sum // = 0;");
    if (n)
        sum = 0;
    return sum;
}

int weigh(int i, const char *why)
{
    if (i) { return 1; }
    return 0;
}
"""

JULIA = """\
function visit(queue)  # while true
    while true
        done(queue) && break
    end
end

visit() = nothing

function visit_all(queues)
    for queue in queues
        done(queue) && continue
    end
end
"""

SERIES = '''\
family = "1.12"

[[patch]]
subject = "Count what is ours"
message = "Ours is counted too."

[[patch.file]]
path = "src/ours.h"
from = "ours.h"

[[patch.insertion]]
id = "include"
path = "src/count.c"
after = '#include "made-up.h"'
text = """
#include "ours.h"
"""

[[patch.insertion]]
id = "more"
path = "src/count.c"
in = "static int count("
before = "return sum;"
text = """
    sum += ours();
"""

[[patch]]
subject = "Weigh what is ours"
message = "Ours is weighed too."

[[patch.insertion]]
id = "or-ours"
path = "src/count.c"
in = "int weigh("
after = "if (i"
text = " || ours()"

[[patch.insertion]]
id = "still-more"
path = "src/count.c"
in = "static int count("
before = "return  sum ;"
text = """
    sum += ours();
"""

[[patch.insertion]]
id = "queue"
path = "base/visit.jl"
in = "function visit_all("
after = "done(queue) && continue"
text = """
        ours(queue) && continue
"""
'''

OURS = "int ours(void);\n"


@pytest.fixture
def series(tmp_path: Path) -> Series:
    """A series for the made-up tree."""
    return made(tmp_path / "series", SERIES)


def made(directory: Path, text: str) -> Series:
    directory.mkdir()
    (directory / "series.toml").write_text(text)
    (directory / "ours.h").write_text(OURS)
    return load_series(directory)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A made-up tree, in git."""
    root = tmp_path / "tree"
    for path, text in {"src/count.c": SOURCE, "base/visit.jl": JULIA, "VERSION": "1.12.5\n"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    with git.Repo.init(root) as repository:
        with repository.config_writer() as config:
            config.set_value("user", "name", "A U Thor").set_value("user", "email", "author@example.com")
        repository.git.add("--all")
        repository.git.commit("-qm", "made up")
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (file for file in root.rglob("*") if file.is_file() and ".git" not in file.parts)
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def problems(series: Series, root: Path) -> list[str]:
    return [str(finding) for finding in patches.check(series, tree_reader(root))]


def test_what_is_inserted_compiles_where_it_was_meant_to_stand(series: Series, tree: Path) -> None:
    patches.apply(series, tree)
    text = patches.patched(series, git_reader(tree), marked=False)["src/count.c"].decode()
    assert '#include "made-up.h"\n#include "ours.h"\n' in text
    assert "    sum += ours();\n    sum += ours();\n    return sum;\n" in text
    assert "if (i || ours()) { return 1; }" in text
    (tree / "src/made-up.h").write_text("int weigh(int i, const char *why);\n")
    main = tree / "src/main.c"
    main.write_text('#include "count.c"\nint ours(void) { return 20; }\nint main(void) { return count(2); }\n')
    subprocess.run(["gcc", "-o", tree / "main", main], check=True)
    assert subprocess.run([tree / "main"], check=False).returncode == 40


def git_reader(root: Path) -> patches.Read:
    def read(path: str) -> bytes | None:
        shown = subprocess.run(["git", "-C", root, "show", f"HEAD:{path}"], capture_output=True, check=False)
        return shown.stdout if shown.returncode == 0 else None

    return read


def test_reverting_restores_every_byte_and_mode(series: Series, tree: Path) -> None:
    (tree / "src/count.c").chmod(0o640)
    (tree / "base/visit.jl").write_bytes(JULIA.encode() + b"# \xff is no UTF-8\r\n")
    before = contents(tree)
    assert set(patches.apply(series, tree)) == {"src/count.c", "base/visit.jl", "src/ours.h"}
    assert contents(tree).keys() == {*before, "src/ours.h"}
    assert (tree / "src/count.c").stat().st_mode & 0o777 == 0o640
    assert patches.state([series], series, tree) == "applied"
    patches.revert([series], tree)
    assert contents(tree) == before
    assert patches.state([series], series, tree) == "not applied"


def test_what_another_version_of_the_series_inserted_is_reverted_too(
    series: Series, tree: Path, tmp_path: Path
) -> None:
    before = contents(tree)
    patches.apply(series, tree)
    newer = made(tmp_path / "newer", SERIES.replace("|| ours()", "|| !ours()"))
    assert patches.state([newer], newer, tree) == "other"
    patches.revert([newer], tree)
    assert contents(tree) == before


def test_text_around_it_may_change(series: Series, tree: Path) -> None:
    edit(tree / "src/count.c", "    return sum;", "    /* all of it */\n    return\n        sum;")
    edit(tree / "src/count.c", "if (i) {", "if( i ) {")
    (tree / "src/count.c").write_text("\n\n" + (tree / "src/count.c").read_text())
    before = contents(tree)
    patches.apply(series, tree)
    assert "if( i/* basedev" in (tree / "src/count.c").read_text()
    patches.revert([series], tree)
    assert contents(tree) == before


@pytest.mark.parametrize(
    ("path", "old", "new", "problem"),
    [
        (
            "src/count.c",
            "    return sum;",
            "    return 0;",
            "src/count.c: more: there is no 'return sum;' in 'static int",
        ),
        (
            "src/count.c",
            "    if (n)",
            "    if (n < 0)\n        return sum;\n    if (n)",
            "more: 'return sum;' stands 2 times",
        ),
        ("src/count.c", "    return sum;", "    int i; return sum;", "'return sum;' is not at the beginning of a line"),
        ("src/count.c", "static int count(int n)\n", "int count(int n)\n", "no function begins 'static int count('"),
        ("src/count.c", "int weigh(", "int weigh(void)\n{\n}\n\nint weigh(", "or-ours: 2 functions begin 'int weigh('"),
        ("src/count.c", "if (i) {", "if (index) {", "or-ours: there is no 'if (i' in 'int weigh('"),
        ("base/visit.jl", "&& continue", "&& continue; yield()", "is not at the end of a line"),
        ("base/visit.jl", "function visit_all(", "function visit_each(", "queue: no function begins"),
    ],
)
def test_nothing_is_changed_where_a_place_is_in_doubt(
    series: Series, tree: Path, path: str, old: str, new: str, problem: str
) -> None:
    edit(tree / path, old, new)
    before = contents(tree)
    assert any(problem in one for one in problems(series, tree)), problems(series, tree)
    with pytest.raises(SetupError, match="can't be applied"):
        patches.apply(series, tree)
    assert contents(tree) == before


def test_it_is_not_applied_twice_nor_over_other_files(series: Series, tree: Path) -> None:
    patches.apply(series, tree)
    applied = contents(tree)
    assert {one.partition(": ")[2] for one in problems(series, tree)} == {"it was applied already"}
    with pytest.raises(SetupError):
        patches.apply(series, tree)
    assert contents(tree) == applied
    patches.revert([series], tree)
    (tree / "src/ours.h").write_text(OURS)
    assert problems(series, tree) == ["src/ours.h: there is a file of this name"]
    (tree / "src/ours.h").unlink()
    (tree / "src/count.c").unlink()
    assert "src/count.c: there is no such file" in problems(series, tree)


@pytest.mark.parametrize(
    ("path", "old", "new", "problem"),
    [
        ("src/count.c", "|| ours()", "|| ours() > 1", "or-ours was edited"),
        ("src/count.c", "basedev more ", "basedev less ", None),
        ("src/count.c", "// basedev include", "// basdev include", "a mark was edited"),
        ("src/ours.h", "int ours", "long ours", "it was edited"),
    ],
)
def test_edited_insertions_are_not_thrown_away(
    series: Series, tree: Path, path: str, old: str, new: str, problem: str | None
) -> None:
    patches.apply(series, tree)
    edit(tree / path, old, new)
    if problem is None:  # a mark tells by itself what belongs to it
        assert patches.state([series], series, tree) == "other"
        patches.revert([series], tree)
        assert contents(tree) == {
            "src/count.c": SOURCE.encode(),
            "base/visit.jl": JULIA.encode(),
            "VERSION": b"1.12.5\n",
        }
        return
    before = contents(tree)
    assert patches.state([series], series, tree) == "edited"
    with pytest.raises(UserCodeError, match=problem):
        patches.revert([series], tree)
    assert contents(tree) == before


def test_when_a_file_cannot_be_written_the_others_are_as_before(series: Series, tree: Path) -> None:
    with (tree / "base/visit.jl").open("a") as file:  # the last to be written
        file.write("# long\n" * 10_000)
    before = contents(tree)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            patches.apply(series, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tree) == before


NO_MARKS = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "basedev" not in text)


@settings(deadline=None)
@given(NO_MARKS, NO_MARKS)
def test_any_text_is_restored(before: str, behind: str) -> None:
    text = before.replace("anchor", "") + "\nanchor;\n" + behind.replace("anchor", "")
    at = anchors.find(text, "anchor;", None, "a.c")
    assert isinstance(at, tuple)
    insertions = [
        patches.Insertion("part", "a.c", None, "anchor", True, "ed"),
        patches.Insertion("lines", "a.c", None, "anchor;", False, "one\n\ntwo\n"),
    ]
    places = [(at[0] + len("anchor"), insertions[0]), (at[0], insertions[1])]
    marked = patches._inserted(text, places, marked=True)
    assert patches._unmarked(marked) == text
    assert patches._inserted(text, places, marked=False).count("one\n\ntwo\nanchored;\n") == 1


@pytest.mark.parametrize(
    ("path", "text", "blank"),
    [
        ("a.c", 'x = "// no" + 1; // yes', 'x = "// no" + 1;       '),
        ("a.c", "c = '\"'; /* y\ne */ d", "c = '\"';     \n     d"),
        ("a.cpp", "a / b /c// \\\n yes\nno", "a / b /c    \n    \nno"),
        ("a.jl", 'x = "# no" # yes', 'x = "# no"      '),
        ("a.jl", "c = '\"' #= y\ne =# d", "c = '\"'     \n     d"),
        ("a.jl", "a' * b' # it's", "a' * b'       "),
    ],
)
def test_anchors_are_not_sought_in_comments(path: str, text: str, blank: str) -> None:
    assert anchors.without_comments(text, path) == blank


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('before = "return sum;"', "", "KeyError"),
        ('after = "if (i"', 'after = "if (i"\nbefore = "x"', "before and after"),
        ('text = " || ours()"', 'text = " ||\\n ours()"', "neither whole lines nor part of one"),
        ('id = "still-more"', 'id = "more"', "several insertions more"),
        ('id = "still-more"', 'id = "still more"', "no name"),
        ('from = "ours.h"', 'from = "nowhere.h"', "FileNotFoundError"),
        ('id = "queue"', 'id = "queue"\nlines = 3', "queue has lines"),
    ],
)
def test_a_series_that_means_nothing_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert SERIES.count(old) == 1
    with pytest.raises(InternalError, match=problem):
        made(tmp_path / "wrong", SERIES.replace(old, new))


def test_each_family_has_its_series(series: Series) -> None:
    def found(version: str) -> Series:
        return series_for({"VERSION": f"{version}\n".encode()}.get, [series])

    assert found("1.12.5") == series
    assert found("1.12.7-DEV") == series
    for version in ("1.5.3", "1.120.0", "1.13.0-DEV"):
        with pytest.raises(SetupError, match=f"no patches for Julia {version}, only for 1.12"):
            found(version)


def test_trees_of_a_family_are_told_apart_by_their_files(tree: Path, tmp_path: Path) -> None:
    """As code moves from one file to another while a version of Julia is made."""
    moved = """
[[patch.insertion]]
id = "moved"
path = "src/moved.c"
having = "src/moved.c"
after = "int moved;"
text = " // ours"
"""
    series = made(
        tmp_path / "both", SERIES.replace('path = "base/visit', 'lacking = "src/moved.c"\npath = "base/visit') + moved
    )
    reader = tree_reader(tree)
    before = [one.id for one in series_for(reader, [series]).insertions]
    assert before == ["include", "more", "or-ours", "still-more", "queue"]
    (tree / "src/moved.c").write_text("int moved;\n")
    there = contents(tree)
    after = series_for(reader, [series])
    assert [one.id for one in after.insertions] == ["include", "more", "or-ours", "still-more", "moved"]
    patches.apply(after, tree)
    assert patches.state([series], series_for(reader, [series]), tree) == "applied"
    assert (tree / "base/visit.jl").read_text() == JULIA
    patches.revert([series], tree)
    assert contents(tree) == there


def test_exported_patches_are_applied_by_git(series: Series, tree: Path, tmp_path: Path) -> None:
    """`git am` makes one commit of each, and the tree is that of `apply` without its marks."""
    reader = git_reader(tree)
    written = mails(series, reader, "A U Thor <author@example.com>", "Thu, 1 Oct 2026 12:00:00 +0000")
    assert list(written) == ["0001-Count-what-is-ours.patch", "0002-Weigh-what-is-ours.patch"]
    files = []
    for name, content in written.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    expected = patches.patched(series, reader, marked=False)
    repository = git.Repo(tree)
    repository.git.am(*files)
    assert {path: (tree / path).read_bytes() for path in expected} == expected
    log = repository.git.log("-2", "--format=%an %s %b").split("\n")
    assert [line for line in log if line] == [
        "A U Thor Weigh what is ours Ours is weighed too.",
        "A U Thor Count what is ours Ours is counted too.",
    ]


def test_the_series_here_say_what_they_are_for() -> None:
    """Each loads, is for the family that its directory is named after, and holds no text of Julia's but anchors."""
    found = patches.all_series()
    assert {series.family for series in found} == {"1.12", "1.13"}
    for series in found:
        assert (patches.root() / series.family / "series.toml").is_file()
        for insertion in series.insertions:
            assert len(insertion.anchor) <= 80
            assert insertion.function is None or len(insertion.function) <= 80


# The command line.


def basedev(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "basedev", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def as_json(root: Path, *words: str, code: int = 0) -> dict[str, Any]:
    done = basedev(root, "--json", *words)
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def sources(tree: Path) -> Path:
    """The made-up tree, as a checkout that the command line takes for one."""
    (tree / "base/Base.jl").write_text("module Base end\n")
    (tree / "stdlib").mkdir()
    return tree


def test_a_tree_that_does_not_fit_is_told_file_by_file(sources: Path) -> None:
    told = as_json(sources, "patch", "check", code=1)
    assert told["status"] == "does not fit"
    (checked,) = told["trees"]
    assert (checked["revision"], checked["family"], checked["fits"]) == (None, "1.12", False)
    assert {"path": "src/staticdata.c", "id": None, "problem": "there is no such file"} in checked["problems"]
    done = basedev(sources, "patch", "apply")
    assert done.returncode == 3
    assert "the patches for Julia 1.12 can't be applied" in done.stderr
    assert as_json(sources, "patch", "status")["status"] == "not applied"
    assert basedev(sources, "patch", "revert").returncode == 0


def test_revisions_are_checked_without_checking_them_out(sources: Path) -> None:
    (sources / "VERSION").write_text("1.5.3\n")
    repository = git.Repo(sources)
    repository.git.commit("-qam", "older")
    told = as_json(sources, "patch", "check", "HEAD~1..HEAD", "HEAD~1", code=1)
    assert [(one["revision"], one["family"]) for one in told["trees"]] == [
        (repository.commit("HEAD").hexsha, None),
        (repository.commit("HEAD~1").hexsha, "1.12"),
    ]
    assert "no patches for Julia 1.5.3" in told["trees"][0]["problems"][0]["problem"]
    assert basedev(sources, "patch", "check", "nowhere").returncode == 2
    assert basedev(sources, "patch", "check", "nowhere..HEAD").returncode == 2


# On a checkout of current Julia.


@pytest.fixture(scope="session")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a checkout of current Julia as they are at its HEAD, in a clone of their own."""
    name = os.environ.get("BASEDEV_MODERN_JULIA")
    if not name:
        pytest.skip("BASEDEV_MODERN_JULIA names no checkout of Julia 1.12 or newer")
    clone = tmp_path_factory.mktemp("modern") / "julia"
    subprocess.run(["git", "clone", "-q", "--shared", name, clone], check=True)
    return clone


def test_real_sources_are_patched_and_restored(modern: Path) -> None:
    before = contents(modern)
    assert as_json(modern, "patch", "check")["status"] == "fits"
    assert as_json(modern, "patch", "check", "HEAD")["status"] == "fits"
    files = as_json(modern, "patch", "apply")["files"]
    told = as_json(modern, "patch", "status")
    assert told["status"] == "applied"
    assert {one["path"] for one in told["files"]} == set(files)
    assert basedev(modern, "patch", "apply").returncode == 3
    as_json(modern, "patch", "revert")
    assert contents(modern) == before


def test_real_sources_take_the_exported_patches(modern: Path, tmp_path: Path) -> None:
    exported = as_json(modern, "patch", "export", "-o", str(tmp_path / "out"))["files"]
    subprocess.run(["git", "-C", modern, "apply", "--check", exported[0]], check=True)
    subprocess.run(["git", "-C", modern, "apply", *exported], check=True)
    assert (modern / "src/chained.c").read_bytes() == (patches.root() / "common/chained.c").read_bytes()
    assert basedev(modern, "patch", "export", "-o", str(tmp_path / "out")).returncode == 2
