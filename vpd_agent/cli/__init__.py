"""The command line, vpd."""
