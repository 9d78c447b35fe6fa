"""From costs and gradients to a sparse update within an energy budget.

Rooms, each of which may import those above it:

- `errors`, `costs`: what every room stands on.
- `candidates`: gradients checked and flattened, and the few entries that a threshold leaves standing.
- `greedy`: the rules and the exact greedy by score.
- `hierarchy`: one price over entry, line, tensor and payload (`prices`, `pool`: scores of candidates, `search`, `orders`, `collect`, `choose`).
- `payload`: a sparse update as bytes, and back.
- `selector`, `update`, `feedback`, `controller`: what a training loop uses.
- `gain`: what CWMP gains over Top-K for given costs, before any training.
- `frameworks`: PyTorch DDP, GRACE, and any torch optimiser.

Words: *keys* are the flat tensors that rank entries (the gradients, or random numbers); a *place* is the number of a tensor in the mapping's
order; what is *found* are candidates, positions and values of the entries that a pass left standing; a *score* is the price up to which a
candidate is bought.
"""

from cwmp_profiler.moved import install

install()
