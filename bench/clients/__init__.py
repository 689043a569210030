"""Client programs, one for each stack: ``python -m bench.clients.NAME PORT MODE SECONDS`` in its environment."""
