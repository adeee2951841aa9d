"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.study_processes import Zygote


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Starts commands as real processes, with the libraries loaded already."""
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()
