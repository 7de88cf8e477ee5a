"""Event logs read into memory, and batches drawn from them."""
