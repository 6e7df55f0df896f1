"""Mathematics: problems, and when two answers are equal."""
