"""Operators: what a training step is made of, each with its shapes, its operands' places in the caches, and its physics.

- `operator`: the description of one operator, as data, and the family that it belongs to.
- `physics`: its floating-point operations, bytes and telling dimensions, from shapes alone.
- `trace`: the operators of any step of torch code, in order.
"""
