"""Networks made of foldable blocks, in torch: what a checkpoint's architecture name stands for."""
