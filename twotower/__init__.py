"""The contract between the stages: what training, embedder_cache and service all need, and nothing else."""
