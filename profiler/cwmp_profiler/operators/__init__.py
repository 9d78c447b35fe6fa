"""Operators: what a training step is made of, each with its shapes, its operands' places in the caches, its physics and its time.

- `operator`: the description of one operator, as data, and the family that it belongs to.
- `physics`: its floating-point operations, bytes and telling dimensions, from shapes alone.
- `trace`: the operators of any step of torch code, in order.
- `training`: one training step of any module, as something to trace.
- `replay`: one operator alone, its operands as they were and as far away as they were.
- `stopwatch`: time on a machine that others use too.
- `block`: a step measured: its distinct operators alone, and the whole beside.
- `overhead`: what calls and views cost beside the operators.
- `joules`: watts of the operators that carry a step, in meter windows.
- `families`: the plan of blocks for models that nobody measured.
- `records`: files of measured blocks.
"""
