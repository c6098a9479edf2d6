"""`tools/bench`: what it measures comes to tables, documents and a picture. What the numbers are is not tested."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from basedev.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
EDITS = (
    *("none", "leaf", "docstring", "stdlib", "20-files", "lpad", "chomp"),
    *("ispow2", "getindex", "iterate", "print_to_string", "compiler"),
)
SECONDS = re.compile(r"\d+\.\d\d \((once|[\d.]+-[\d.]+)\)")


def bench(storage: Storage, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the tool."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, str(ROOT / "tools/bench.py"), *words],
        env={**os.environ, "BASEDEV_CACHE": str(storage.root), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def documents(place: Path) -> Path:
    """A copy of the documents that have tables."""
    (place / "docs").mkdir(parents=True)
    for name in ("README.md", "docs/performance.md"):
        shutil.copy(ROOT / name, place / name)
    return place


def measured(document: Path, name: str) -> str:
    """What stands in a document between the two comments."""
    found = re.search(rf"<!-- measured: {name} -->\n(.*?)<!-- end -->", document.read_text(), re.DOTALL)
    assert found, name
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a text's tables, without the lines below their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def smallest(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One edit, one run, no full rebuild, and one definition."""
    place = documents(tmp_path_factory.mktemp("documents") / "here")
    kept = place / "measured.json"
    words = ("--edits", "leaf", "--runs", "1", "--only", "edits", "watch", "growth", "--growth", "1", "--skip-full")
    done = bench(storage, *words, "--json", str(kept), "--update", str(place), "--markdown")
    assert done.returncode == 0, done.stderr
    return {"told": json.loads(kept.read_text()), "output": done.stdout, "errors": done.stderr, "place": place}


def test_each_way_is_measured(smallest: dict[str, Any]) -> None:
    head, row = rows(smallest["output"])[:2]
    assert (head[0], row[0]) == ("edit", "new function")
    assert len(head) == len(row)
    assert all(SECONDS.fullmatch(cell) for cell in row[1:4])
    assert {way: len(one["seconds"]) for way, one in smallest["told"]["ways"]["leaf"].items()} == {
        "julia": 1,
        "cold": 1,
        "warm": 1,
    }
    assert all(one["memory"]["all"] > 100 << 20 for one in smallest["told"]["ways"]["leaf"].values())
    servers = {way: one["about"]["server"] for way, one in smallest["told"]["ways"]["leaf"].items()}
    assert servers == {"julia": "off", "cold": "off", "warm": "used"}
    assert len(smallest["told"]["watch"]["seconds"]) == 1


def test_what_was_not_measured_stays(smallest: dict[str, Any]) -> None:
    place = smallest["place"]
    assert (place / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()
    assert not (place / "docs/benchmark.svg").exists()
    assert "the table ways stays as it was" in smallest["errors"]
    performance = place / "docs/performance.md"
    (head, row) = rows(measured(performance, "growth"))
    assert row[:2] == ["1", "1"] and len(row) == len(head)
    assert measured(performance, "steps") == measured(ROOT / "docs/performance.md", "steps")


def test_nothing_is_left(smallest: dict[str, Any], storage: Storage) -> None:
    assert not list(storage.root.glob("bench-*"))
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            assert f"{storage.root}/bench-".encode() not in words


def test_tables_and_picture_of_a_whole_run(smallest: dict[str, Any], storage: Storage, tmp_path: Path) -> None:
    """Made from one edit's numbers: how each stands in the documents does not depend on what they are."""
    told = smallest["told"]
    leaf = told["ways"]["leaf"]
    told |= {
        "ways": {name: dict(leaf) for name in EDITS},
        "full": leaf["cold"],
        "redump": leaf["julia"],
        "start": {"base": [0.2, 0.3], "chained": [0.2, 0.3]},
        "code": {"f(x)": [10.0, 11.0]},
        "switch": {"run": [0.5], "alone": [0.2]},
        "successive": {"seconds": [2.0, 1.0], "images": [1 << 20, 1 << 20], "server": [1 << 20, 3 << 20]},
    }
    del told["ways"]["compiler"]["julia"]
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(told))
    pictures = []
    for name in ("first", "second"):
        place = documents(tmp_path / name)
        done = bench(storage, "--from", str(whole), "--update", str(place))
        assert done.returncode == 0, done.stderr
        assert "stays as it was" not in done.stderr
        pictures.append((place / "docs/benchmark.svg").read_bytes())
    assert pictures[0] == pictures[1]
    texts = [text.text for text in ElementTree.fromstring(pictures[0]).iter("{http://www.w3.org/2000/svg}text")]
    head, *ways = rows(measured(place / "README.md", "ways"))
    titles = [row[0].replace("`", "") for row in ways]
    assert len(titles) == len(EDITS)
    assert titles == [text for text in texts if text in titles]
    assert all(len(row) == len(head) for row in ways)
    assert {"basedev, cold", "basedev, warm", "Julia's rule chained"} <= set(texts)
    performance = place / "docs/performance.md"
    assert len(rows(measured(performance, "work"))) == 1 + len(EDITS)
    assert len(rows(measured(performance, "code"))) == 4
    assert rows(measured(performance, "successive"))[3][1:3] == ["1.0", "3.0"]


def test_edits_that_there_are_not(storage: Storage) -> None:
    done = bench(storage, "--edits", "leaf", "nonsense")
    assert done.returncode == 2
    assert "there are no edits nonsense" in done.stderr
