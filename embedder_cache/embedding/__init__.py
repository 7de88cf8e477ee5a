"""Items to vectors: only what changed, here or on a cluster, resumed when interrupted."""
