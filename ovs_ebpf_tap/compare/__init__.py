"""`compare`: measures a mirror copied by eBPF and the same one copied by Open vSwitch.

`command` is what `cli` calls.

- no I/O: `rounds` (order of runs), `figures` (readings, medians, spreads), `metrics` (those that
  both kinds of runs have), `mirror_counters` (which counters belong to a mirror), `counting`
  (missing and extra copies), `report` (table, JSON), and `page` (HTML) with its `charts`.
- reading: `readers` (counters of devices and programs, CPU time) and `host` (what it ran on).
- running: `live` (a mirror of the switch and the traffic that there is, with `mode_switcher` and
  `util/signals`) and `lab_runs` (a switch, hosts and traffic of its own).
"""
