"""Decisions that both clients share. Pure."""
