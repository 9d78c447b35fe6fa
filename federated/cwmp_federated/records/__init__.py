"""What a run is and what it leaves: configuration, budgets, energy ledger, checkpoint."""
