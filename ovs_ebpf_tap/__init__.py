"""Port mirroring for Open vSwitch, copied by eBPF programs on the ports' own devices.

From what is seen to what is done:

- observe: `ovsdb` (the database), `netlink` (devices and their TC hooks), `bpf` (programs,
  maps and links), `vswitchd` (its revalidators). Each is the only module that talks to its part
  of the world.
- decide: `model` (what was seen, as plain data) and `plan` (pure functions from it to the
  hooks and rules wanted, or to the reason why not).
- apply: `datapath` (makes the kernel's hooks and rules those wanted) and `handover` (moves
  mirrors between Open vSwitch and the hooks, in OVSDB).

`sidecar` runs the three in turn; `service` (run), `release` and `status` are what `cli` calls.
`lab` builds real switches and traffic, for tests and demonstrations.
"""
