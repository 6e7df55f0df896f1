"""How good a model is: answers, statistics, reports, comparisons."""
