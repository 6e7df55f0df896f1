"""What the words of the command line do, a module for each."""
