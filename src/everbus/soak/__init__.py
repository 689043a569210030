"""Proof or conviction of a Modbus TCP server, in whatever language it is written.

``scenarios`` says what one cycle does to the server, ``runner`` repeats it, ``sampling`` looks at
the server's process meanwhile, ``verdicts`` judges. The server is only talked to and looked at.
"""
