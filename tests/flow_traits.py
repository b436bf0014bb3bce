"""What flow tables that are watched say of their flows, whatever ports there are."""

from __future__ import annotations

from dataclasses import replace

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_paths import traits_of
from ovs_ebpf_tap.model.flow_traits import FlowTraits
from ovs_ebpf_tap.observe.flow_tables import FlowTables


def traits_in(tables: FlowTables) -> dict[str, FlowTraits]:
    """By bridge; whether they send to NORMAL is left out."""
    found = {name: FlowGraph.of(tables.pipeline(name)) for name in tables.versions}
    return {name: replace(traits_of(graph, {}), normal=True) for name, graph in found.items()}
