"""Faults under traffic, on a real Open vSwitch: no copy is missing, and soon all is right again.

A test takes a `ground` (a switch, hosts, a mirror `m` of all that host `a` sends, a sidecar) and
a `fault`, within which it breaks something and mends it:

    def test_a_thing_breaks(ground: Testbed, fault: Fault) -> None:
        with fault("a thing breaks") as during:
            ground.switch.kill_vswitchd()
            ground.switch.start_vswitchd()

Numbered frames pass the mirror all the while. When the block ends, the fault has ended: from there
it is measured how long rows and copies take to be right again. What may be missing or doubled for
want of a device or of the sidecar is told with `during.blackout()` and `during.unattended()`. Each
fault is a line of the table at the end of the run.
"""
