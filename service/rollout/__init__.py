"""Rollout: which release answers which request, and how a new release takes over. Runs on the event loop."""
