"""Connections, bodies, API keys, the route table: everything about HTTP that no single path owns. Runs on the event loop."""
