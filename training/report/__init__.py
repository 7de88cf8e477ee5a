"""The HTML page about a run: its charts, its curves, its verdict."""
