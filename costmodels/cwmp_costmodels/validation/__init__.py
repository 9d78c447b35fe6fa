"""Predicted against measured joules of work that the fit never saw."""
