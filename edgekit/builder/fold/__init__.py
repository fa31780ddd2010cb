"""Fold the branches of a re-parameterizable block into one convolution of the same function.

Numbers alone: ``geometry``, ``algebra``, ``grouping``, ``merge``, ``sequence``, ``low_rank``. Torch
modules: ``torch_front`` and what it reads with. ONNX graphs, the form that every build takes:
``onnx_find`` finds the blocks, ``onnx_fold`` folds and proves them; ``low_rank_onnx`` factorises.
"""
