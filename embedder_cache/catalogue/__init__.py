"""Reads items, changes, popularity and signals, and releases published before, for the nightly job."""
