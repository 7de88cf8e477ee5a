"""Release and history -> POST /recommend."""
