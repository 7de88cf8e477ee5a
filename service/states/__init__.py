"""User states: what the model has computed of each user, in memory and in a file. Runs on the engine's thread."""
