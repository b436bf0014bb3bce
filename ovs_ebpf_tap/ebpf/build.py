"""The name of a build, by digests of its sources and of its compiler."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sysconfig
from functools import cache
from pathlib import Path

from ovs_ebpf_tap import abi

# A supervisor that makes the directory names it so (systemd's CacheDirectory=).
CACHE = Path(os.environ.get("CACHE_DIRECTORY", "/var/cache/ovs-ebpf-tap")) / "programs"
"""Where compiled objects are kept, as BUILD_ID.json."""

_MAKERS = ("compile.py", "object.py", "template.py")
"""What of this package makes programs of the C sources."""

_COMPILER = ("libbcc.so", "libLLVM", "libclang-cpp")
_LIBRARIES = [
    f"{prefix}/{name}"
    for prefix in ("/usr/lib", "/usr/local/lib")
    for name in (sysconfig.get_config_var("MULTIARCH") or "", "", "../lib64")
]
"""Where the dynamic linker looks."""


@cache
def build_id() -> str:
    """The name of the build that this version's sources and this machine's compiler make.

    Where there is no compiler, one that was kept of these sources will do.
    """
    digest = hashlib.sha256()
    home = Path(__file__).parent
    for path in (*sorted(abi.source_dir().rglob("*.[ch]")), *(home / name for name in _MAKERS)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    sources = f"{abi.constant('ABI')}-{digest.hexdigest()[:16]}"
    compiler = _compiler_id()
    kept = [] if compiler else sorted(CACHE.glob(f"{sources}-*.json"))
    return kept[0].stem if kept else f"{sources}-{compiler or 'none'}"


def _compiler_id() -> str | None:
    """A digest of the libraries that compile, by their sizes and times; None if there are none.

    bcc itself would take a second to ask, and 130 MB.
    """
    found = set()
    for directory in _LIBRARIES:
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory):
                if entry.name.startswith(_COMPILER):
                    about = entry.stat()
                    found.add(f"{entry.name} {about.st_size} {int(about.st_mtime)}")
    if not any(each.startswith(_COMPILER[0]) for each in found):
        return None
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:8]
