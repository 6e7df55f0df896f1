"""Questions whose answer is compared with a known one: science, tools, puzzles."""
