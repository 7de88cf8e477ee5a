"""The two towers: the embedder (items -> vectors) and the contextualizer (history -> query vector)."""
