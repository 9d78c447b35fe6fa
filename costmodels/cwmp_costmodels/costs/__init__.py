"""Joules of each parameter tensor of a model as a function of what is kept."""
