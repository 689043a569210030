"""everbus beside its peers, in one run, interleaved: ``make bench``, ``make bench-quick``.

``contenders`` says who takes part and how each is started, ``programs`` compiles what is in C,
``cases`` says what is asked, ``rounds`` asks it and keeps every figure, ``client_rounds`` lets the
programs in ``clients`` ask, ``reach`` compares the ratios with what is promised, ``tables`` and
``plots`` show them, ``hotpath`` profiles the server.
"""
