"""Which release answers whom, and how one takes over from another. Runs on the event loop."""
