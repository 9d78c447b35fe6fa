"""A profile as pictures and as one page."""
