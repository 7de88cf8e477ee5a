"""The bridge from the event loop to the one thread or process where the model runs: admission, batches, deadlines."""
