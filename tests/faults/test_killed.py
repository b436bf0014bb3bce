"""The sidecar is killed at each step of each transition, and started again."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ovs_ebpf_tap
from faults.fault import During, Fault
from faults.testbed import Testbed
from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import pinning
from ovs_ebpf_tap.ebpf.build import build_id
from ovs_ebpf_tap.lab.kernel import attachments
from ovs_ebpf_tap.lab.sidecar_process import hook_count
from ovs_ebpf_tap.model.desired import CLSACT, NATIVE, OFFLOADED, TCX
from ovs_ebpf_tap.util import namespace

_COMPILING = 5.0
"""Seconds that all programs take, whose cache is empty at the first start."""

_AWAY = 0.15
"""Seconds without a sidecar."""

_HOOKS = 2
"""Of a mirror of what `a` sends and `b` receives."""

_STARTING = ("lock taken", "programs opened", "control socket made", "rows read")
_ATTACHING = (
    "grace periods expedited",
    "own program loaded",
    "program attached",
    "entry written",
    "second program attached",
    "second entry written",
    "third program attached",
    "third entry written",
    "hooks there",
)
_REMOVING = (
    "hooks about to go",
    "hook removed",
    "slots about to be freed",
    "slots freed",
)
_REMOVING_LINKS = ("link detached",)
_REMOVING_FILTERS = ("filter removed", "qdisc about to go", "qdisc removed")
_REVALIDATING = ("flow_mod about to be sent", "waiting for revalidators")
_PARKING = ("parking about to be sent", "parking sent", *_REVALIDATING)
_GIVING_BACK = ("giving back about to be sent", "giving back sent", *_REVALIDATING)


def at(
    *both: str,
    tcx: tuple[str, ...] = (),
    clsact: tuple[str, ...] = (),
    any_kind: tuple[str, ...] = (),
) -> pytest.MarkDecorator:
    """One test for each point, and each kind of hooks; for `any_kind`, with the first kind."""
    more = {TCX: tcx, CLSACT: clsact}
    more[attachments()[0]] += any_kind
    return pytest.mark.parametrize(
        ("bare_ground", "point"),
        [
            pytest.param(attach, point, id=f"{attach}-{point.replace(' ', '_')}")
            for attach in attachments()
            for point in (*both, *more[attach])
        ],
        indirect=["bare_ground"],
    )


def start(ground: Testbed, point: str, state: str = OFFLOADED, both: bool = True) -> None:
    """Starts a sidecar that will be killed, and has the mirror in that state."""
    ground.tap.point = point
    ground.tap.start()
    ground.mirror(state=state, dst=[ground.b] if both else [])


def kill(ground: Testbed, during: During, begin: Callable[[], object]) -> None:
    """Has the sidecar begin what it is killed in, and starts another."""
    during.unattended()
    ground.tap.arm()
    begin()
    ground.tap.wait_hit()
    time.sleep(_AWAY)
    during.ended()
    ground.tap.start()


def assert_kept(ground: Testbed, hooks: int = _HOOKS) -> None:
    """There are as many hooks, all known, and nothing half done."""
    pins = ground.tap.pin_dir
    assert hook_count(ground.switch) == hooks
    links = list((pins / pinning.LINKS).iterdir()) if (pins / pinning.LINKS).is_dir() else []
    assert len(links) == (hooks if ground.attach == TCX else 0)
    assert {path.name for path in pins.iterdir()} <= {
        build_id(),
        pinning.LINKS,
        namespace.NOTE,
    }
    assert not (pins / build_id() / "expedited").exists()


@at(
    "slots taken",
    *_ATTACHING,
    *_PARKING,
    tcx=("link made",),
    clsact=("qdisc noted", "qdisc made"),
)
def test_moving_to_hooks(bare_ground: Testbed, fault: Fault, point: str) -> None:
    ground = bare_ground
    start(ground, point, NATIVE)
    with fault(f"killed moving to hooks, {ground.attach}: {point}") as during:
        kill(ground, during, lambda: ground.move("m", OFFLOADED))
    assert_kept(ground)


@at(
    *_GIVING_BACK,
    *_REMOVING,
    tcx=_REMOVING_LINKS,
    clsact=(*_REMOVING_FILTERS, "qdisc forgotten"),
)
def test_moving_to_open_vswitch(bare_ground: Testbed, fault: Fault, point: str) -> None:
    ground = bare_ground
    start(ground, point)
    with fault(f"killed moving to Open vSwitch, {ground.attach}: {point}") as during:
        kill(ground, during, lambda: ground.move("m", NATIVE))
    assert_kept(ground, 0)


@at(*_ATTACHING, tcx=("link made", "link's program replaced"), clsact=("qdisc made",))
def test_a_port_is_added(bare_ground: Testbed, fault: Fault, point: str) -> None:
    ground = bare_ground
    start(ground, point, both=False)

    get = ("--id=@port", "get", "Port", ground.b.port)
    add = ("add", "Mirror", "m", "select_dst_port", "@port")
    with fault(f"killed adding a port, {ground.attach}: {point}") as during:
        kill(ground, during, lambda: ground.switch.vsctl(*get, "--", *add))
    assert_kept(ground)


@at(
    "own program loaded",
    "program attached",
    "entry written",
    "second program attached",
    "second entry written",
    "hooks there",
)
def test_the_outputs_vlan_changes(bare_ground: Testbed, fault: Fault, point: str) -> None:
    """Its device's own hook tags copies, and does so no more."""
    ground = bare_ground
    for host in (ground.a, ground.b):
        ground.switch.vsctl("set", "Port", host.port, "tag=10")
    ground.switch.learn(ground.a, ground.b)
    start(ground, point, both=False)
    with fault(f"killed as the output's VLAN changes, {ground.attach}: {point}") as during:
        kill(
            ground,
            during,
            lambda: ground.switch.vsctl("set", "Port", ground.monitor.port, "tag=10"),
        )
    assert_kept(ground)


@at(
    *_GIVING_BACK,
    "leftovers about to be removed",
    "half of the pins removed",
    "leftovers removed",
    tcx=_REMOVING_LINKS,
    clsact=_REMOVING_FILTERS,
    any_kind=(
        "command gave all back",
        "command about to forget keys",
        "lock about to be given back",
    ),
)
def test_release_is_killed(bare_ground: Testbed, fault: Fault, point: str) -> None:
    """The command, without a sidecar; it is given again."""
    ground, tap = bare_ground, bare_ground.tap
    tap.start()
    ground.mirror(dst=[ground.b])
    tap.kill()
    tap.point = point
    with fault(f"release killed, {ground.attach}: {point}") as during:
        ground.wanted["m"] = None
        during.unattended()
        tap.arm()
        tap.wait_hit(tap.start_release())
        time.sleep(_AWAY)
        during.ended()
        assert tap.release().returncode == 0
    assert hook_count(ground.switch) == 0
    assert not tap.pin_dir.exists()


@pytest.mark.parametrize("bare_ground", attachments(), indirect=True)
def test_release_without_a_sidecar(bare_ground: Testbed, fault: Fault) -> None:
    """It moves mirrors as fast as the sidecar does."""
    ground, tap = bare_ground, bare_ground.tap
    tap.start()
    ground.mirror(dst=[ground.b])
    tap.kill()
    with fault(f"killed, and released, {ground.attach}"):
        ground.wanted["m"] = None
        assert tap.release().returncode == 0
    assert hook_count(ground.switch) == 0


@at("giving back sent", "hooks about to go", "keys forgotten", "pins about to be removed")
def test_a_sidecar_is_killed_that_releases(bare_ground: Testbed, fault: Fault, point: str) -> None:
    """The command that has asked for it does it then."""
    ground = bare_ground
    start(ground, point)
    with fault(f"killed releasing, {ground.attach}: {point}") as during:
        ground.wanted["m"] = None
        during.unattended()
        ground.tap.arm()
        assert ground.tap.release().returncode == 0
        ground.tap.wait_hit()
    assert hook_count(ground.switch) == 0
    assert not ground.tap.pin_dir.exists()


@at(
    any_kind=(
        "lock taken",
        "half of the programs pinned",
        "programs pinned under their draft's name",
        "programs pinned",
        "programs opened",
    )
)
def test_the_first_start(bare_ground: Testbed, fault: Fault, point: str) -> None:
    ground, tap = bare_ground, bare_ground.tap
    ground.switch.mirror("m", src=[ground.a], dst=[ground.b], output=ground.monitor)
    ground.switch.appctl("revalidator/purge")
    ground.wanted["m"] = OFFLOADED
    ground.forget_programs()
    tap.point = point
    with fault(
        f"killed at the first start, {ground.attach}: {point}", preparation=_COMPILING
    ) as during:
        kill(ground, during, lambda: tap.start(ready=False))
    assert_kept(ground)


@at("hooks read", "first pass made", any_kind=_STARTING)
def test_starting_over_offloaded_mirrors(bare_ground: Testbed, fault: Fault, point: str) -> None:
    ground, tap = bare_ground, bare_ground.tap
    tap.start()
    ground.mirror(dst=[ground.b])
    tap.kill()
    tap.point = point
    with fault(f"killed at a start, {ground.attach}: {point}") as during:
        kill(ground, during, lambda: tap.start(ready=False))
    assert_kept(ground)


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a sidecar of another build."""
    home = tmp_path_factory.mktemp("older")
    package = Path(ovs_ebpf_tap.__path__[0])
    shutil.copytree(package, home / "ovs_ebpf_tap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(abi.source_dir(), home / "bpf")
    with (home / "bpf" / "tap.c").open("a") as source:
        source.write("/* older */\n")
    return {"PYTHONPATH": str(home), "PYTHONSAFEPATH": "1"}


@at("hooks there", "parking sent")
def test_another_build_is_started(
    bare_ground: Testbed, fault: Fault, point: str, older: dict[str, str]
) -> None:
    """The one that was killed was of an older build."""
    ground, tap = bare_ground, bare_ground.tap
    tap.point = point
    tap.start(env=older)
    ground.mirror(state=NATIVE, dst=[ground.b])
    with fault(f"killed moving to hooks, then a newer build, {ground.attach}: {point}") as during:
        kill(ground, during, lambda: ground.move("m", OFFLOADED))
    assert_kept(ground)


@at(
    "program attached",
    "entry written",
    "second entry written",
    "older hooks taken over",
    "older build taken over",
    "older build removed",
    clsact=("qdisc noted",),
    any_kind=(
        "half of the programs pinned",
        "programs pinned",
        "older build found",
        "slots taken",
        "older counters taken over",
        "half of the older build removed",
    ),
)
def test_an_older_build_is_taken_over(
    bare_ground: Testbed, fault: Fault, point: str, older: dict[str, str]
) -> None:
    ground, tap = bare_ground, bare_ground.tap
    tap.start(env=older)
    ground.mirror(dst=[ground.b])
    with fault(f"killed taking over an older build, {ground.attach}: {point}") as during:
        tap.stop()
        tap.point = point
        kill(ground, during, lambda: tap.start(ready=False))
    assert_kept(ground)
    # Two builds do not know what the other has copied.
    outcome = during.outcome
    assert outcome is not None
    copies = outcome.sent + outcome.doubled + outcome.unattended
    assert tap.status()[0]["packets"] == copies


@at(
    *_GIVING_BACK,
    "hooks about to go",
    "hook removed",
    "all given back",
    "control socket closed",
    "lock about to be given back",
)
def test_giving_back_at_the_end(bare_ground: Testbed, fault: Fault, point: str) -> None:
    ground, tap = bare_ground, bare_ground.tap
    tap.options += ("--on-exit", "restore")
    start(ground, point)
    with fault(f"killed giving back at its end, {ground.attach}: {point}") as during:
        assert tap.process is not None
        kill(ground, during, tap.process.terminate)
    assert_kept(ground)


@at("hooks there", "third program attached", "parking sent", "flow_mod about to be sent")
def test_told_to_end_moving_to_hooks(bare_ground: Testbed, fault: Fault, point: str) -> None:
    told_to_end(bare_ground, fault, point, OFFLOADED)
    assert_kept(bare_ground)


@at("giving back sent", *_REVALIDATING, "hook removed")
def test_told_to_end_moving_to_open_vswitch(bare_ground: Testbed, fault: Fault, point: str) -> None:
    told_to_end(bare_ground, fault, point, NATIVE)
    assert_kept(bare_ground, 0)


def told_to_end(ground: Testbed, fault: Fault, point: str, state: str) -> None:
    """It ends the move first: nobody may start another sidecar for long."""
    ground.tap.signal = signal.SIGTERM
    start(ground, point, NATIVE if state == OFFLOADED else OFFLOADED)
    with fault(f"told to end moving to {state}, {ground.attach}: {point}"):
        ground.tap.arm()
        ground.move("m", state)
        ground.tap.wait_hit()
        assert ground.is_right(), ground.tap.log()
