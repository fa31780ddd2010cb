"""Fold the branches of a re-parameterizable block into one convolution of the same function.

``geometry`` and ``algebra`` know only numbers; ``torch_front`` applies them to torch modules.
"""
