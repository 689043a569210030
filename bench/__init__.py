"""Measurements beside other servers. Loopback only."""
