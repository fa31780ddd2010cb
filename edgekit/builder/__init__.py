"""Offline, on the workstation: load, fold, cost, split, verify.

The only place that imports torch or onnx.
"""
