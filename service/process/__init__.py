"""One server process, and several that share a port."""
