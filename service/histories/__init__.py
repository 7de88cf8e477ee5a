"""What is known of users: the stores of their events, and what is read from them. Runs on the event loop and its pools."""
