from __future__ import annotations

import pytest

from analysis.runs.conditions import differing_conditions
from xling.tracking import LoggedRun

USUAL = {
    "device": "cpu",
    "dtype": "float32",
    "threads": "8",
    "batch_tokens": "2048",
    "plain_copy": "True",
}


def run(model="m", **changes) -> LoggedRun:
    params = {"model": model} | USUAL | changes
    return LoggedRun(
        run_id="r",
        name="n",
        params={f"cfg.{key}": value for key, value in params.items() if value},
        metrics={},
        tags={},
        start_time=0,
        status="FINISHED",
    )


def test_runs_made_alike_need_no_note():
    assert differing_conditions([run(), run(), run("other")]) == []


def test_models_may_differ_since_gains_are_within_a_model():
    assert differing_conditions([run(), run("other", batch_tokens="512", threads="2")]) == []


@pytest.mark.parametrize(
    ("name", "value", "listed"),
    [
        ("threads", "16", "threads 8, 16"),
        ("batch_tokens", "512", "batch_tokens 512, 2048"),
        ("plain_copy", "False", "plain_copy False, True"),
    ],
)
def test_a_difference_is_named_with_the_model_and_how_much_comes_of_it(name, value, listed):
    assert differing_conditions([run(), run("other"), run(**{name: value})]) == [
        f"runs of m that are compared were not all made with the same {listed}: differences of "
        "up to 1e-4 in log-probability come from that alone"
    ]


@pytest.mark.parametrize(
    ("name", "value", "listed"),
    [
        ("device", "server", "device cpu, server"),
        ("dtype", "bfloat16", "precision bfloat16, float32"),
    ],
)
def test_other_devices_and_precisions_differ_by_more(name, value, listed):
    (note,) = differing_conditions([run(), run(**{name: value})])
    assert f"the same {listed}: " in note
    assert note.endswith(
        "up to 1e-4 in float32 on one device, more between devices and in lower precision"
    )


def test_batches_in_low_precision_differ_by_more_than_the_tolerance():
    half = {"dtype": "bfloat16"}
    (note,) = differing_conditions([run(**half), run(**half, batch_tokens="512")])
    assert "more between devices and in lower precision" in note


def test_a_run_that_does_not_say_is_passed_over():
    silent = dict.fromkeys(USUAL, "")
    assert differing_conditions([run(), run(**silent)]) == []
