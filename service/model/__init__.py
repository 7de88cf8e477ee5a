"""The contextualizer run incrementally, user by user, on a CPU and on a GPU. Runs on the engine's thread."""
