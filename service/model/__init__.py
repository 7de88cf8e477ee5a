"""The contextualizer run incrementally, user by user, and the cache of user states. Runs on the engine's thread."""
