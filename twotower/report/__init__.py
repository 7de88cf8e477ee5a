"""What all HTML pages share: their frame, their style, their drawings."""
