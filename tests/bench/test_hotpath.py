from __future__ import annotations

from bench.hotpath import table

STACKS = """\
main;run_forever;read;recv 30
main;run_forever;read;answer 10
main;run_forever;read 20
main;watch;sleep 500
"""


def test_shares_are_of_the_loops_own_time() -> None:
    lines = table(STACKS).splitlines()
    assert lines[0].endswith("60 samples of the event loop's thread")
    assert " 50.0%   50.0%  recv" in lines
    assert " 33.3%  100.0%  read" in lines
    assert not any("sleep" in line for line in lines)


def test_no_sample_is_no_table() -> None:
    assert "0 samples" in table("")
