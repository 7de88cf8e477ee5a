"""Connections, bodies, API keys and the route table: the parts of HTTP that all routes share. Runs on the event loop."""
