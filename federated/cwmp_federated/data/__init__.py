"""Data sets by name, and which client holds which part."""
