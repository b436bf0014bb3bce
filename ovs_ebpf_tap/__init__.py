"""Port mirroring for Open vSwitch, copied by eBPF programs on the ports' own devices.

From what is seen to what is done:

- observe: `ovsdb` (the database), `netlink` (devices and their TC hooks), `bpf` (programs,
  maps and links), `vswitchd` (its revalidators), `openflow` (flow tables and port flags; `ofp` has
  the messages' formats), `ethtool` (devices' drivers and features). Each is the only module that
  talks to its part of the world. `hw_offload` tells how long that is in force, and where;
  `departures`, which devices have left the network namespace.
- decide, in pure functions: `model` (what was seen, as plain data), `topology` (what mirrors
  refer to in it), `ovs_version` (what versions do differently), `vlan` and `filter` (what Open
  vSwitch's settings mean), `judge` (whether a mirror by itself can be copied), `rules` (the copies
  that hooks make) and `plan`, which makes of these what is `wanted`: hooks and rules, or the
  reason why not.
- apply: `datapath` (makes the kernel's hooks and rules those wanted, with `encoding` and `pool`
  for what the maps hold) and `handover` (moves mirrors between Open vSwitch and the hooks, in
  OVSDB).

`sidecar` runs the three in turn, with a `spare` descriptor for what must not wait for one;
`service` (run), `release`, `status` and `compare` are what `cli` calls. `service` tells the
`supervisor` how it is; `release` works without programs, and removes `leftovers`.
`lab` builds real switches and traffic, for tests and demonstrations.
"""
