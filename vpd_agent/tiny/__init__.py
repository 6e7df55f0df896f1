"""Models small enough for a laptop, and what teaches them to write answers at all."""
