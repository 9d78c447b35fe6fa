"""Federated training on Flower within an energy budget.

Rooms, each of which may import those above it in this list:

- `data`: data sets and who holds what of them.
- `wire`: what travels: models, updates, reports and settings as Flower records and back; `flower` is the door to Flower's internals.
- `grid`: messages between server and clients inside this process.
- `records`: the run's configuration, budgets, energy ledger and checkpoint.
- `client`: a client's round.
- `server`: the server's round, and a run on any Flower grid.
- `training`: a whole run inside this process.
- `sweep`: many runs, and the frontier of accuracy against joules.
"""

from cwmp_profiler.moved import install

install()
