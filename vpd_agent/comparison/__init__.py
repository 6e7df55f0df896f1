"""Methods head to head: the runs of a comparison, their statistics, and the report on them."""
