"""A release as it is served, and its items that changed since it was built. Runs on the engine's thread."""
