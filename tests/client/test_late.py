from __future__ import annotations

from everbus.client.late import LateAnswers

THIS, THAT = b"\x03\x00\x00\x00\x01", b"\x03\x00\x01\x00\x01"


def test_a_unit_that_owes_an_answer_is_asked_nothing_else() -> None:
    late = LateAnswers()
    late.sent(1, 3.0)
    assert late.ready_at(1, THAT, 0.5) == 0.0
    late.unanswered(1, THIS, 3.0)
    assert late.ready_at(1, THAT, 1.0) == 3.0
    assert late.ready_at(1, THIS, 1.0) == 0.0
    assert late.ready_at(2, THAT, 1.0) == 0.0
    assert late.ready_at(1, THAT, 3.0) == 0.0
    assert late.ready_at(1, THAT, 1.0) == 0.0


def test_who_is_asked_the_same_again_owes_two_answers_even_if_one_came() -> None:
    late = LateAnswers()
    late.unanswered(1, THIS, 3.0)
    late.sent(1, 4.5)
    assert late.ready_at(1, THAT, 3.5) == 4.5
    late.unanswered(1, THIS, 4.0)
    assert late.ready_at(1, THAT, 4.2) == 4.5
