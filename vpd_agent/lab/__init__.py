"""The laptop lab: named experiments, each a question that comparisons of tiny models answer."""
