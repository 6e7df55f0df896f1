"""From problems to rollouts: prompts, sampling, judging, feedback."""
