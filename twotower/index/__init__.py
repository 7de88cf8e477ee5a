"""Search over item vectors by inner product: the kinds of index, their files, and one search for all kinds."""
