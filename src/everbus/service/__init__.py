"""From a request to its response. Pure: no sockets, no clocks, no threads."""
