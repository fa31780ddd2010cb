"""Try before the plan is final: make the best plans' shards, run them here, and plan again."""
