"""A sparse update as bytes, and back, from anyone."""
