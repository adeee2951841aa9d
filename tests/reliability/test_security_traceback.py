"""With XLING_DEBUG=1, and where an error is a bug's: the traceback tells no secret."""

from __future__ import annotations

import pytest

from tests.place import Place
from tests.reliability.study_processes import Zygote
from tests.reliability.test_security_secrets import (  # noqa: F401 (place: a fixture)
    CANARY,
    URIS,
    check_clean,
    place,
    run,
)


@pytest.mark.slow
@pytest.mark.parametrize("uri", URIS)
def test_the_traceback_of_a_store_that_fails_tells_no_password(
    uri: str,
    place: Place,  # noqa: F811
    zygote: Zygote,
) -> None:
    done = run(
        place, "entrypoints.prepare", "--study", str(place.study), zygote=zygote,
        MLFLOW_TRACKING_URI=uri, XLING_DEBUG="1",
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" in done.stderr, done.stderr[-2000:]
    check_clean(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry_point", "option"), [("prepare", "--data"), ("analyze", "--experiment")]
)
def test_a_traceback_tells_no_password(
    entry_point: str,
    option: str,
    place: Place,  # noqa: F811
    zygote: Zygote,
) -> None:
    done = run(
        place, f"entrypoints.{entry_point}", "--study", str(place.study),
        option, f"https://user:{CANARY}-x@host/y", zygote=zygote, XLING_DEBUG="1",
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" in done.stderr and "***@host/y" in done.stderr
    check_clean(done)
