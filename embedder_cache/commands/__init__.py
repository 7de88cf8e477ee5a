"""The commands `embed`, `releases` and `releases drift`."""
