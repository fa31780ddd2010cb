"""Run one shard: ONNX Runtime, and a fake for tests and teaching."""
