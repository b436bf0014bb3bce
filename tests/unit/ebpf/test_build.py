"""What a build is named by: all that makes the programs what they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ovs_ebpf_tap.ebpf import build


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this package's modules, beside libraries of a compiler, and a cache."""
    package = Path(build.__file__).parent
    for path in package.glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "lib").mkdir()
    for name in ("libbcc.so.0", "libLLVM-14.so.1", "libclang-cpp.so.14", "libc.so.6"):
        (tmp_path / "lib" / name).write_text(name)
    monkeypatch.setattr(build, "__file__", str(tmp_path / "build.py"))
    monkeypatch.setattr(build, "_LIBRARIES", [str(tmp_path / "lib"), "/nowhere"])
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    return tmp_path


def build_id() -> str:
    return build.build_id.__wrapped__()


@pytest.mark.parametrize("name", ["compile.py", "object.py", "template.py"])
def test_what_makes_programs_of_the_sources(home: Path, name: str) -> None:
    before = build_id()
    with (home / name).open("a") as module:
        module.write("# newer\n")
    assert build_id() != before


def test_what_does_not(home: Path) -> None:
    before = build_id()
    for each in (home / "sidecar.py", home / "lib" / "libc.so.6"):
        each.write_text("newer")
    assert build_id() == before


@pytest.mark.parametrize("name", ["libbcc.so.0", "libLLVM-14.so.1", "libclang-cpp.so.14"])
def test_the_compiler(home: Path, name: str) -> None:
    library = home / "lib" / name
    before = build_id()
    os.utime(library, (0, 1))
    later = build_id()
    library.write_text("much longer than it was before")
    os.utime(library, (0, 1))
    assert len({before, later, build_id()}) == 3


def test_without_a_compiler_what_was_kept_will_do(home: Path) -> None:
    with_it = build_id()
    shutil.rmtree(home / "lib")
    assert build_id() == f"{with_it.rpartition('-')[0]}-none"
    (home / "cache").mkdir()
    (home / "cache" / f"{with_it}.json").touch()
    assert build_id() == with_it


def test_a_directory_can_be_named_so() -> None:
    assert "." not in build.build_id()
