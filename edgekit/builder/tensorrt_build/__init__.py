"""Shards that TensorRT takes, and the recipes by which boards build engines of them."""
