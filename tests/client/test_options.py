from __future__ import annotations

from math import inf, nan

import pytest

from everbus.client.options import ClientOptions
from everbus.errors import ConfigurationError


def test_the_defaults_suit_every_device() -> None:
    options = ClientOptions()
    assert (options.timeout_s, options.connect_timeout_s, options.retries) == (3.0, 3.0, 1)
    assert (options.max_in_flight, options.spacing_s, options.matching) == (1, 0.0, "strict")
    assert not options.retry_writes
    assert options.retry_busy_s is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[(name, wrong) for name in ("timeout_s", "connect_timeout_s") for wrong in (0, -1.0, inf, nan)],
        *[(name, wrong) for name in ("spacing_s", "connect_delay_s", "retry_busy_s") for wrong in (-0.1, inf, nan)],
        ("retries", -1),
        ("max_in_flight", 0),
        ("max_in_flight", 1025),
        ("matching", "loose"),
        ("timeout_s", "3"),
        ("timeout_s", True),
        ("connect_timeout_s", 86_401),
        ("retries", 1.5),
        ("max_in_flight", 2.0),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(name: str, wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} is .*not "):
        ClientOptions(**{name: wrong})  # type: ignore[arg-type]
