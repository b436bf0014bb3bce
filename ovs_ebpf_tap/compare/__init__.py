"""`compare`: a mirror copied by eBPF beside the same one copied by Open vSwitch, in figures.

`command` is what `cli` calls.

- pure: `rounds` (their order), `figures` (readings, medians, spreads) and the `metrics` that both
  kinds of runs have, `places` (which counters tell of a mirror), `counting` (copies that are
  missing or extra), `report` (table, JSON) and `page` (HTML).
- reading: `readers` (devices' counters, copies of the programs, CPU) and `host` (what it ran on).
- running: `live` (a mirror and the traffic that there is, with `mover` and `interrupts`) and `lab`
  (a switch, hosts and traffic of its own).
"""
