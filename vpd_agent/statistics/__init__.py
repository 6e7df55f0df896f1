"""Estimates and their intervals, of what evaluations and runs measured."""
