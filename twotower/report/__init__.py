"""The parts that all HTML pages share: frame, style and drawings."""
