"""Mirrors as users make them on bridges as others build them, against what is due.

A mirror is due each packet that it selects once, and once more in each form that the packet takes
on a wire. That is worked out from what was captured behind the ports (`due.py`), so Open vSwitch's
own surplus copies are told apart from those due. On each deployment the same traffic runs natively
and offloaded (`comparison.py`); the end of the run prints the table of all (`outcome_table.py`).
"""
