"""The bundle on disk: blocks, packing, verification. Read on devices, so no onnx here."""
