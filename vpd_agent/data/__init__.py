"""Rollouts, and the tensors they become."""
