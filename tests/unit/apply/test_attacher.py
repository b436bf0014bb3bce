"""When hooks get their specialized programs, on a kernel of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import ENODEV, ENOMEM, EOPNOTSUPP
from types import SimpleNamespace
from typing import cast

import pytest
from builders import switch
from structlog.testing import capture_logs

from ovs_ebpf_tap.apply.attacher import HookAttacher
from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.hook_table import ActualHook, DesiredHook, HookTable
from ovs_ebpf_tap.apply.hook_writer import HookWriter
from ovs_ebpf_tap.model.desired import CLSACT, INGRESS, TCX, Hook, Rule
from ovs_ebpf_tap.observe.devices import DeviceMonitor

(RULE,) = switch("a out").add_mirror(src="a", out="out").plan().hooks[Hook(100, INGRESS)]
SHARED, OWN = Attachment(TCX), Attachment(TCX, True)
A, B = Hook(1, INGRESS), Hook(2, INGRESS)


class FakeHookWriter:
    """Notes what was attached where; some programs are refused."""

    def __init__(self, table: HookTable) -> None:
        self.said: list[tuple[Hook, Attachment]] = []
        self.refuse: Callable[[Hook, Attachment], Exception | None] = lambda _hook, _how: None
        self._table = table

    def replace(self, hook: Hook, rules: tuple[Rule, ...], how: Attachment) -> None:
        self.said.append((hook, how))
        error = self.refuse(hook, how)
        if error is not None:
            raise error
        self._table.actual[hook] = ActualHook(rules, how)


class AttacherBench:
    """An attacher; all devices are up."""

    def __init__(self, kind: str = TCX) -> None:
        table = HookTable()
        self.writer = FakeHookWriter(table)
        monitor = SimpleNamespace(is_up=lambda _ifindex: True, name_of=lambda _ifindex: "a0")
        self.attacher = HookAttacher(
            kind, cast(HookWriter, self.writer), table, cast(DeviceMonitor, monitor)
        )

    def goal(self, *hooks: Hook) -> dict[Hook, DesiredHook]:
        final = self.attacher.final(hooks[0], (RULE,), None)
        return dict.fromkeys(hooks, DesiredHook((RULE,), final))


def test_hooks_get_their_programs_later() -> None:
    bench = AttacherBench()
    goal = bench.goal(A, B)
    assert bench.attacher.attach(goal) == {}
    assert bench.writer.said == [(A, SHARED), (B, SHARED)]
    assert not bench.attacher.is_finished(goal)
    bench.attacher.improve(goal)
    assert bench.writer.said[2:] == [(A, OWN), (B, OWN)]
    assert bench.attacher.is_finished(goal)


@pytest.mark.parametrize("fault", [OSError(ENOMEM, "no memory"), KeyError("a fault")])
def test_a_program_that_is_refused(fault: Exception) -> None:
    """The shared one does it, and it is not tried again until the hook changes."""
    bench = AttacherBench()
    bench.writer.refuse = lambda _hook, how: fault if how.specialized else None
    goal = bench.goal(A)
    with capture_logs() as logs:
        assert bench.attacher.attach(goal) == {}
        for _ in range(2):
            bench.attacher.improve(goal)
            assert bench.attacher.is_finished(goal)
    assert len([each for each in logs if each["event"] != "traceback"]) == 1
    assert bench.writer.said == [(A, SHARED), (A, OWN)]
    bench.writer.refuse = lambda _hook, _how: None
    assert bench.attacher.attach(goal) == {}
    bench.attacher.improve(goal)
    assert bench.writer.said[2:] == [(A, SHARED), (A, OWN)]


def test_a_hook_that_is_refused() -> None:
    bench = AttacherBench()
    bench.writer.refuse = lambda hook, _how: OSError(ENOMEM, "no memory") if hook == A else None
    with capture_logs() as logs:
        assert bench.attacher.attach(bench.goal(A, B)).keys() == {A.ifindex}
    assert logs == []
    assert (B, SHARED) in bench.writer.said


def test_a_device_that_is_gone_refuses_nothing() -> None:
    bench = AttacherBench()
    bench.writer.refuse = lambda _hook, _how: OSError(ENODEV, "no such device")
    assert bench.attacher.attach(bench.goal(A)) == {}
    assert bench.attacher.is_finished(bench.goal(A))


def test_a_kernel_without_actions() -> None:
    """A filter with an action is tried once; then programs copy."""
    bench = AttacherBench(CLSACT)
    own = Attachment(CLSACT, True)
    acting = replace(own, action=RULE.output)
    bench.writer.refuse = lambda _hook, how: OSError(EOPNOTSUPP, "no") if how.action else None
    goal = bench.goal(A)
    with capture_logs() as logs:
        assert bench.attacher.attach(goal) == {}
        bench.attacher.improve(goal)
    assert logs == []
    assert bench.writer.said == [(A, Attachment(CLSACT)), (A, acting)]
    goal = bench.goal(A)
    assert not bench.attacher.is_finished(goal)
    bench.attacher.improve(goal)
    assert bench.writer.said[2:] == [(A, own)]
    assert bench.attacher.is_finished(goal)
