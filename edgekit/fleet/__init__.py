"""Operator side of the control plane: publish a bundle, deploy in two phases, watch."""
