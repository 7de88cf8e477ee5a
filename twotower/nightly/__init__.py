"""The nightly routine: the commands from new data to a promoted release, each step noted and resumable."""
