"""What those who plan a write and the compiled loops agree on: numbers alone, so that neither imports the other."""

RUN = 16
"""Neighbours that are written as one vector: a cache line of float32."""

OUTSIDE = -2
"""What `loops.survey` says of positions outside the tensor."""
