"""Events and items -> model bundle."""
