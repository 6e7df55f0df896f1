"""The policy: a language model, its chat template, and the teacher beside it."""
