"""Several processes: gradients, randomness, sharded models."""
