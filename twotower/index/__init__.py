"""Search over item vectors by inner product: what a release holds for it, and one answer whatever the kind."""
