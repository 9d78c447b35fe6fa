"""The rules, and the exact greedy by score."""
