"""Answers the public Python client behaviorgpt: its requests over the same engine, and the catalogues that it uploads."""
