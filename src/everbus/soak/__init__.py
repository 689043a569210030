"""Proof or conviction of a Modbus TCP server, in whatever language it is written.

``scenarios`` say what one cycle does to the server, ``runner`` repeats it, ``polite`` asks beside it
as a good client does, ``sampling`` looks at the server's process meanwhile, ``verdicts`` judge.
``plots`` and ``report`` show it. Whatever is in order is asked by everbus's own client (``asking``);
bare sockets (``target``) are for what no client does. The server is only talked to and looked at.
"""
