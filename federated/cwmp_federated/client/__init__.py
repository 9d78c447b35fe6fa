"""A client's round: training, selection, energy."""
