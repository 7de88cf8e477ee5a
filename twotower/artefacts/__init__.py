"""Bundles and releases: directories with a manifest, written atomically, in directories or buckets."""
