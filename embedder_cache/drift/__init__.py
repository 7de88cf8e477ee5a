"""What changed between two releases, and whether it is time to train again."""
