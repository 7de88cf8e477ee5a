"""Requests, responses and error codes: the types that bodies are decoded into, and the OpenAPI document is made from."""
