"""Draws the map of a release in a process of its own, so that a map that fails costs no release."""
