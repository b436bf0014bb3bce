"""Open vSwitch as the oracle, for as long as one likes: random mirrors and faults from a seed.

Two switches are set up alike (`pair.py`, `scene.py`), change by change (`*changes.py`). Beside one
runs a sidecar, which is ended, killed and cut off as well (`steps.py`), and there are programs of
others (`foreign_programs.py`). After each step the same frames are sent through both, and what
arrives behind every port has to be the same (`replay.py`); what the sidecar holds in the kernel
and as a process is counted (`readings.py`). `loop.py` is the loop.

    python -m soak --minutes 20 --seed 7
"""
