"""How many elements the server takes in one request.

Made by clients/generate.py from the types of the server: run it after a change there.
"""

MAX_EVENTS = 1024
MAX_ITEMS = 1000
MAX_BATCH = 64
