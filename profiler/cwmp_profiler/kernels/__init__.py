"""The writes that a sparse update is made of: chosen entries and whole lines of a parameter and of its optimiser state.

The same functions serve who uses an update (`SparseUpdate.apply_to`, `SparseStep`, receivers) and who measures one (the
`update` workloads), so that what is priced is what runs.

- `rules`: SGD and Adam as numbers, and the names of their state.
- `places`: any dense layout (channels_last, transposed) as one flat piece of memory.
- `plain`: the writes by torch's operators, on any device.
- `compiled`, `loops`, `lanes`, `lines`, `ahead`, `addresses`: the same by machine code, one pass over the touched lines; CPU, the extra `fast`.
- `machine`: how a loop becomes machine code, for the selector as well.
- `scatter`: which of the two runs, and what is refused. Their answers are equal to the bit.

Nothing is imported here: `scatter` needs torch, and a plan of measurements does not.
"""
