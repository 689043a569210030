"""Registers and values: types and orders, points, and few reads for many points; no I/O."""
