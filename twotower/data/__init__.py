"""Events and items: schema, features, windows, statistics."""
