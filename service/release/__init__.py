"""A release as it is served, and the items that changed since it was built. Runs on the engine's thread."""
