"""The mirror's mode is given back, however a comparison ends."""

from __future__ import annotations

import pytest
from builders import World, switch

from ovs_ebpf_tap.compare import live, mode_switcher
from ovs_ebpf_tap.daemon.runtime import Options
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.rows import MODE_KEY, Database
from ovs_ebpf_tap.model.transaction import Transaction
from ovs_ebpf_tap.util.signals import EndingSignals

RUNS = live.LiveRuns("m", 1, 1)


class FakeModes:
    """A database that takes edits of a mirror's external_ids at once, while it answers."""

    busy = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers = True
        self.closed = False

    def snapshot(self) -> Database:
        return self.world.db

    def close(self) -> None:
        self.closed = True

    def transact(self, _ovsdb: object, edits: Transaction) -> None:
        if not self.answers:
            raise TapError("the database did not answer within 10 s")
        for edit in edits.mirrors:
            ids = {**self.world.mirrors["m"].external_ids, **edit.set_ids}
            kept = {key: value for key, value in ids.items() if key not in edit.delete_ids}
            self.world.set_mirror("m", external_ids=kept)


@pytest.fixture
def ovsdb(monkeypatch: pytest.MonkeyPatch) -> FakeModes:
    fake = FakeModes(switch().add_mirror(src="a", out="out", external_ids={"other": "1"}))
    monkeypatch.setattr(mode_switcher, "connect", lambda _: fake)
    monkeypatch.setattr(mode_switcher, "transact", fake.transact)
    monkeypatch.setattr(mode_switcher, "wait_db", lambda *_: None)
    return fake


def ids(ovsdb: FakeModes) -> dict[str, str]:
    return dict(ovsdb.world.mirrors["m"].external_ids)


@pytest.mark.parametrize("mode", [None, "native", "offload", "", "neither"])
@pytest.mark.parametrize("failure", [None, TapError("in vain"), KeyError(), KeyboardInterrupt()])
def test_the_mode_is_as_it_was(
    ovsdb: FakeModes, mode: str | None, failure: BaseException | None
) -> None:
    before = {"other": "1"} if mode is None else {"other": "1", MODE_KEY: mode}
    ovsdb.world.set_mirror("m", external_ids=before)
    signals = EndingSignals()
    caught: BaseException | None = None
    try:
        with live._mode_given_back(Options("unix:x"), RUNS, signals) as switcher:
            mode_switcher._write_mode(switcher._ovsdb, switcher.uuid, "native")
            assert ids(ovsdb)[MODE_KEY] == "native"
            if failure is not None:
                raise failure
    except BaseException as error:
        caught = error
    assert ids(ovsdb) == before
    assert ovsdb.closed
    if isinstance(failure, TapError):
        assert str(caught) == "in vain; the mirror's mode is as it was"
    else:
        assert caught is failure


@pytest.mark.parametrize(
    ("mode", "by_hand"),
    [
        (None, "ovs-vsctl remove Mirror {} external_ids ebpf-tap-mode"),
        ("native", "ovs-vsctl set Mirror {} external_ids:ebpf-tap-mode=native"),
    ],
)
def test_what_to_do_by_hand(ovsdb: FakeModes, mode: str | None, by_hand: str) -> None:
    ovsdb.world.set_mirror("m", external_ids={} if mode is None else {MODE_KEY: mode})
    uuid = ovsdb.world.mirrors["m"].uuid

    def compare_in_vain() -> None:
        with live._mode_given_back(Options("unix:x"), RUNS, EndingSignals()) as switcher:
            mode_switcher._write_mode(switcher._ovsdb, switcher.uuid, "offload")
            ovsdb.answers = False
            raise TapError("in vain")

    with pytest.raises(TapError) as caught:
        compare_in_vain()
    text = str(caught.value)
    assert text.startswith("in vain; the database did not answer within 10 s; ")
    assert text.endswith(by_hand.format(uuid))


def test_a_mirror_that_is_gone_needs_no_mode(ovsdb: FakeModes) -> None:
    with live._mode_given_back(Options("unix:x"), RUNS, EndingSignals()) as switcher:
        del ovsdb.world.mirrors["m"]
        with pytest.raises(TapError, match="mirror m was removed"):
            switcher.mirror  # noqa: B018 - it is a property that raises


def test_which_mirror() -> None:
    world = switch().add_mirror("m", src="a", out="out").add_mirror("n", src="b", out="out")
    uuid = world.mirrors["m"].uuid
    assert (
        mode_switcher.choose(world.db, "m").uuid
        == mode_switcher.choose(world.db, str(uuid)).uuid
        == uuid
    )
    with pytest.raises(TapError, match="no mirror x: see"):
        mode_switcher.choose(world.db, "x")
    world.set_mirror("n", name="m")
    with pytest.raises(TapError, match="several mirrors are called m"):
        mode_switcher.choose(world.db, "m")
    assert mode_switcher.choose(world.db, str(uuid)).uuid == uuid
