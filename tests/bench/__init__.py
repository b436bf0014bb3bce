"""Measurements on a lab's switch; a figure out of its limit is a figure, no failure."""
