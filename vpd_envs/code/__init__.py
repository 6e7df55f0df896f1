"""Programs: problems, how an answer becomes a program, and what its tests say."""
