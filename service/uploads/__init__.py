"""Uploaded catalogues: their files, the jobs that embed them with the served model, and their releases in memory."""
