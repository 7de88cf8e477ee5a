"""What each path of the HTTP interface does. Runs on the event loop."""
