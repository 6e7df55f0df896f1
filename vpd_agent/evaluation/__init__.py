"""How good a model is: its answers to held-out problems, and reports on them."""
