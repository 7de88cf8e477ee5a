"""The losses of both stages and the candidates that they score."""
