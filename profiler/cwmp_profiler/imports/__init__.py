"""Readings of others become a measurements file: tables of work and joules, and logs of power.

- `expressions`: arithmetic over the columns of a row; `units`: what a column's numbers are in.
- `mapping`: which columns mean what, kept as TOML. `table`: rows of a text table. `readers`: formats that are known by their header.
- `rows`: readings that cannot be true, named and counted. `layers`: counts of a layer from its shape.
- `session`: mapping and rows to windows and a header of provenance `published`.
- `traces`: power over time, its windows and its sensor's update period.
"""
