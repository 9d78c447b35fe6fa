"""The selector inside PyTorch DDP, GRACE, and any torch optimiser."""
