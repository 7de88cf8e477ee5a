"""What a new release must pass before it is published."""
