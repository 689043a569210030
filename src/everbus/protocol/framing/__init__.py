"""Frames around a PDU, as incremental parsers: MBAP, RTU and ASCII."""
