"""Losses and the arithmetic below them: functions of tensors, nothing else."""
