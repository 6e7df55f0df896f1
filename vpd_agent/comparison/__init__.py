"""Methods head to head: the runs of a comparison, and the report on them."""
