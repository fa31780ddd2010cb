"""The only stopwatch: measured times of shards."""
