"""Two profiles or two sessions side by side."""
