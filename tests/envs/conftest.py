"""Its folder is on the path, so that the tests in the rooms below find what they share."""
