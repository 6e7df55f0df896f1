"""`vpd serve`: an environment over HTTP, for trainers in any language and for OpenEnv clients."""
