"""What tests of refusals share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accelsim.errors import InputError


def refusal(function: Callable[..., object], *arguments: object) -> str:
    """The one line with which a call refuses its arguments."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message
