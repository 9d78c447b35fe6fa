"""Jetson boards: the sensors on their supply rails."""
