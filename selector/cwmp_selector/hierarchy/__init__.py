"""Selections whose joules are more than a sum over entries."""
