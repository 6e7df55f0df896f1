"""A page from a run's folder, on which one sees what each token of an answer was told."""
