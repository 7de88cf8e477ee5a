"""The contextualizer read on user by user, and what is kept of each user. Runs on the engine's thread."""
