"""How many inputs of a kind are tried."""

import pytest

from tests.fuzz.harness import INPUTS


@pytest.fixture(params=[25, pytest.param(INPUTS, marks=pytest.mark.slow)])
def inputs(request) -> int:
    """So many inputs of each kind: a few in the quick tests, all in the slow ones."""
    return request.param
