"""Embeds the items that changed, here or on a cluster, and continues interrupted runs."""
