"""Profiles as the truth of simulated devices and radios."""
