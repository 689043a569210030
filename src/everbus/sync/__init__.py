"""Hosts that block: the client and the pool without an event loop."""
