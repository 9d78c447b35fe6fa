"""A Flower app that trains within energy budgets."""
