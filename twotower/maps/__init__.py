"""Maps of a catalogue: each item has a place in the plane, near the items like it."""
