"""Asyncio hosts: they own sockets and timers, and decide nothing that the core can decide."""
