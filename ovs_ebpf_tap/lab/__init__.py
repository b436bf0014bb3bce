"""A laboratory: a real Open vSwitch of its own, real devices in namespaces, frames counted exactly.

    with Switch() as switch:
        switch.add_bridge()
        a, b, monitor = (switch.add_host(name) for name in ("a", "b", "m"))
        switch.mirror("m0", src=[a], output=monitor)
        with Capture.of(monitor) as copies:
            send(a, [udp_frame(a, b, b"hello")])
            copies.wait_count(1)

It needs root, and touches neither a switch nor a device of the machine it runs on.
"""
