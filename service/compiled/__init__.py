"""What the model does for one user after one new event, as compiled functions. Runs on the engine's thread."""
