"""What a call that is refused says: a message of one line."""

import pytest

from spkver.errors import SpkverError


def told(call, *args, **options) -> str:
    """The message of the SpkverError that a call raises."""
    with pytest.raises(SpkverError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
