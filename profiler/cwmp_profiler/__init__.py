"""Joules in: meters, microbenchmarks and the sessions that run them.

Rooms, each of which may import those above it:

- `counts`, `clock`, `errors`, `provenance`, `si_prefixes`, `device_info`, `boards`: what every room stands on.
- `kernels`: the writes of a sparse update, which users and microbenchmarks share.
- `meters`: every source of joules or watts, and the contract of plug-ins.
- `joules`: from raw readings to joules of a window (`tracker`), counter edges, the probe of a meter, joules of a command.
- `workloads`: microbenchmarks with exact counts.
- `devices`: what is measured: a torch device, or one of known physics.
- `radio`: real bytes over a real socket, both ends.
- `sessions`: plan, measure, and the measurements file.
- `operators`: the operators that a step is made of, their physics, and their time.
- `check`: is a session trustworthy.
- `calibration`: two meters over the same loads.
- `remote`: a session on a board, driven from the desk.
"""

from cwmp_profiler.moved import install

install()
