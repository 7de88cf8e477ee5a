"""One training run: the loop over both stages, checkpoints, the journal, several processes."""
