"""The one file that bcc gets, without bcc."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf.bpf import MapLayout
from ovs_ebpf_tap.ebpf.compile import expand, main
from ovs_ebpf_tap.ebpf.object import MAPS, PROGRAMS, TEMPLATES, XDP, Object
from ovs_ebpf_tap.errors import TapError


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory / next(iter(files))


def test_headers_are_put_in_place_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        {
            "a.c": '// a\n#include "b.h"\nint a;\n#include "c.h"\nint last;\n',
            "b.h": "int b;\n",
            "c.h": '#include "b.h"\nint c;\n',
        },
    )
    assert expand(source).splitlines() == [
        '#line 1 "a.c"',
        "// a",
        '#line 1 "b.h"',
        "int b;",
        '#line 3 "a.c"',
        "int a;",
        '#line 1 "c.h"',
        "",
        "int c;",
        '#line 5 "a.c"',
        "int last;",
    ]


def test_headers_of_the_system_are_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path, {"a.c": "#include <linux/bpf.h>\n"})
    assert expand(source) == '#line 1 "a.c"\n#include <linux/bpf.h>'


def test_the_programs_are_one_file_whose_lines_are_those_of_their_sources() -> None:
    name, number = "", 0
    for line in expand(abi.source_dir() / "tap.c").splitlines():
        mark = re.fullmatch(r'#line (\d+) "(\S+)"', line)
        if mark:
            number, name = int(mark[1]), mark[2]
            continue
        original = (abi.source_dir() / name).read_text().splitlines()[number - 1]
        assert line == ("" if original.startswith('#include "') else original)
        number += 1


def test_all_that_is_pinned_is_in_the_source() -> None:
    text = expand(abi.source_dir() / "tap.c")
    for program in (*PROGRAMS, *TEMPLATES):
        context = "struct xdp_md *ctx" if program == XDP else "struct __sk_buff *skb"
        assert f"int {program}({context})" in text
    for name in MAPS:
        table = rf'TABLE\("\w+", [\w ]+, [\w ]+, {name}, '
        assert re.search(rf"{table}|PROG_ARRAY\({name}, ", text)


@pytest.mark.parametrize("error", [TapError("bcc is missing"), PermissionError(13, "not allowed")])
def test_what_goes_wrong_is_one_line_on_stderr(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_source: str) -> None:
        raise error

    monkeypatch.setattr("ovs_ebpf_tap.ebpf.compile.build", fail)
    assert main() == 1
    assert capsys.readouterr().err == f"{error}\n"


MADE = Object(
    maps={name: MapLayout(2, 4, 8, place, 1) for place, name in enumerate(MAPS)},
    codes={name: name.encode() for name in (*PROGRAMS, *TEMPLATES)},
)


def test_what_is_kept_is_read() -> None:
    assert Object.from_json(MADE.to_json()) == MADE


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"maps": {}, "codes": {}}'])
def test_what_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|lacks"):
        Object.from_json(text)
