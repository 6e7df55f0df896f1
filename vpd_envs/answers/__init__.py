"""What an answer says: where it begins, what counts of it."""
