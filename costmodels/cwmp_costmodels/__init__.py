"""From measurements to coefficients, to a profile, to joules of a model's updates.

Rooms, each of which may import those above it:

- `errors`, `units`: what every room stands on.
- `profile`: the device profile as data, its files, migration, plausibility, and joules per count.
- `networks`: built-in models, models from elsewhere, and what their tensors are.
- `radio`: joules of a link.
- `fit`: measurement sessions in, profile out.
- `operators`: joules and seconds of operators that were never measured, from those of their family that were.
- `costs`: joules of each parameter tensor of a model, by what is kept.
- `simulation`: devices of known physics.
- `compare`, `validation`, `report`: profiles and sessions side by side, held to the test, and as a page.
"""

from cwmp_profiler.moved import install

install()
