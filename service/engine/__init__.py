"""The bridge from the event loop to the thread or process that runs the model: admission, batches, deadlines."""
