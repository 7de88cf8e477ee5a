"""User histories: the stores that keep events, and reading and checking events. Runs on the event loop and its pools."""
