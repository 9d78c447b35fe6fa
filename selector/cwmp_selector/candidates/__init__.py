"""Gradients checked and flattened, and the few entries that a threshold leaves standing."""
