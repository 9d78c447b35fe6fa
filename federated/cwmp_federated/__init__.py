"""Federated training on Flower within an energy budget.

Rooms:

- `data`: data sets and who holds what of them.
- `records`: the run's configuration, budgets, energy ledger and checkpoint.
- `wire`: what travels, as Flower records and back.
- `client`, `server`: both sides of a round.
- `sweep`: many runs, and the frontier of accuracy against joules.
- `training`, `grid`: a whole run inside this process.
"""

from cwmp_profiler.moved import install

install()
