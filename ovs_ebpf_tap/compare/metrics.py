"""Figures that both comparisons have."""

from __future__ import annotations

from ovs_ebpf_tap.compare.figures import Metric
from ovs_ebpf_tap.compare.readers import Cpu

COPIES = (
    Metric("copies_pps", "copies", "/s", panel="Packets", row="copies"),
    Metric("missing", "copies missing"),
    Metric("extra", "copies extra"),
)

_CPU = "CPU"
_PER_PACKET = "CPU time per packet"

CPU = (
    Metric("vswitchd_cpu", "CPU of ovs-vswitchd", "% of a core", 100, 1, _CPU, "ovs-vswitchd"),
    Metric("softirq_cpu", "CPU in softirqs", "% of a core", 100, 1, _CPU, "softirqs"),
    Metric("host_cpu", "CPU of the host, all that ran", "% of a core", 100, 1, _CPU, "host"),
    Metric(
        "vswitchd_ns", "ovs-vswitchd, CPU per packet", "ns", 1e9, 0, _PER_PACKET, "ovs-vswitchd"
    ),
    Metric("softirq_ns", "softirqs, CPU per packet", "ns", 1e9, 0, _PER_PACKET, "softirqs"),
    Metric("host_ns", "host, CPU per packet", "ns", 1e9, 0, _PER_PACKET, "host"),
)


def cpu_figures(cpu: Cpu, seconds: float, packets: int) -> dict[str, float | None]:
    """CPU seconds a second, and a packet; the latter is not known without packets."""
    figures: dict[str, float | None] = {}
    for name in ("vswitchd", "softirq", "host"):
        used = getattr(cpu, name)
        figures[f"{name}_cpu"] = used / seconds
        figures[f"{name}_ns"] = used / packets if packets else None
    return figures
