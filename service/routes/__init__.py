"""The routes of the HTTP interface: what the server does for each path. Runs on the event loop."""
