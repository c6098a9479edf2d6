"""What is installed is all that there is in the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_package_has_all_files(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
    files = listed.splitlines()
    for name in files:
        copy = tmp_path / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, tmp_path / "source"], check=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = {name.rpartition(".data/data/share/basedev/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    own = {name for name in files if name.startswith("basedev/") or (name.startswith("patches/") and "/" in name[8:])}
    assert len(own) > 100 and own <= packed, own - packed
