"""The item record: what is accepted, what is refused, and the metrics of a run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm

from xling.records import (
    RECORD_SCHEMA,
    check_records,
    describe_format,
    read_records,
    records_sha256,
    summarize_records,
    write_records,
)
from xling.records.metrics import clustered_stderr, expected_calibration_error, position_entropy

FAMILY = {"heb_Hebr": "related", "fra_Latn": "control", "arb_Arab": "source"}


def frame(n: int = 8, languages: tuple[str, ...] = ("heb_Hebr",)) -> pd.DataFrame:
    rows = []
    for language in languages:
        for i in range(n):
            gold, prediction = i % 4 + 1, (i % 4 + 1 if i % 3 else (i + 1) % 4 + 1)
            rows.append(
                {
                    "model": "m",
                    "arm": "base",
                    "reasoning": "direct",
                    "scoring": "answer-token",
                    "language": language,
                    "seed": 0,
                    "item_id": f"i{i}",
                    "passage_id": f"p{i // 2}",
                    "part": "heldout",
                    "gold": gold,
                    "prediction": prediction,
                    "correct": gold == prediction,
                    "logprob_1": -1.0,
                    "logprob_2": -1.5,
                    "logprob_3": -2.0,
                    "logprob_4": -3.0,
                    "answer_mass": 0.77,
                    "n_tokens": 40,
                    "prompt_sha256": "f" * 64,
                }
            )
    return pd.DataFrame(rows)


def test_round_trip_keeps_every_value_and_type(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.parquet"
    write_records(frame(), path)
    pd.testing.assert_frame_equal(read_records(path), check_records(frame()))
    assert pq.read_schema(path).equals(RECORD_SCHEMA)
    assert [p.name for p in path.parent.iterdir()] == ["records.parquet"]


def test_cloze_has_no_answer_mass(tmp_path: Path) -> None:
    records = frame().assign(scoring="cloze", answer_mass=None)
    write_records(records, tmp_path / "r.parquet")
    assert read_records(tmp_path / "r.parquet")["answer_mass"].isna().all()
    assert "answer_mass/heb_Hebr" not in summarize_records(records, FAMILY)


def test_column_order_and_object_columns_do_not_matter() -> None:
    shuffled = frame()[list(reversed(frame().columns))].astype(object)
    pd.testing.assert_frame_equal(check_records(shuffled), check_records(frame()))


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("gold", 5, "must be 1, 2, 3 or 4"),
        ("prediction", 0, "must be 1, 2, 3 or 4"),
        ("gold", 1.5, "must be a whole number"),
        ("prediction", 300, "must lie in -128 to 127"),
        ("prediction", "two", "must be a number"),
        ("n_tokens", None, "must not be empty or NaN"),
        ("n_tokens", -1, "must not be negative"),
        ("seed", True, "must be"),
        ("correct", "yes", "must be true or false"),
        ("correct", False, "must equal gold == prediction"),
        ("logprob_3", float("nan"), "must not be empty or NaN"),
        ("logprob_2", 0.5, "a log-probability is at most 0"),
        ("answer_mass", float("nan"), "may be empty only where scoring is cloze"),
        ("answer_mass", 1.5, "must lie in 0 to 1"),
        ("language", "", "must be text that is not empty"),
        ("item_id", 7, "must be text"),
        ("passage_id", None, "must be text"),
        ("arm", "tuned", "must be one of base, finetuned"),
        ("part", "test", "must be one of heldout, training"),
        ("item_id", "i1", "has this item already"),
    ],
)
def test_a_bad_value_is_named_with_column_and_row(column: str, value: object, rule: str) -> None:
    records = frame().astype(object)
    records.loc[4, column] = value
    if column == "seed":
        records[column] = True
    with pytest.raises(ValueError, match=rf"column '{column}', row [04] .*{rule}"):
        check_records(records)


def test_missing_unknown_and_repeated_columns_are_named() -> None:
    with pytest.raises(ValueError, match="column 'gold' is missing"):
        check_records(frame().drop(columns="gold"))
    with pytest.raises(ValueError, match="column 'extra' is not part"):
        check_records(frame().assign(extra=1))
    with pytest.raises(ValueError, match="column 'gold' appears twice"):
        check_records(pd.concat([frame(), frame()[["gold"]]], axis=1))


def test_one_item_in_both_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="never the same item in both parts"):
        check_records(pd.concat([frame(), frame().assign(part="training")]))


def test_truncated_corrupt_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    with pytest.raises(FileNotFoundError, match="no such records file"):
        read_records(path)
    write_records(frame(200), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"records.parquet: .*truncated or corrupt"):
        read_records(path)
    path.write_bytes(b"PAR1" + os.urandom(400) + b"PAR1")
    with pytest.raises(ValueError, match="truncated or corrupt"):
        read_records(path)


def test_a_flipped_byte_never_changes_the_records_unseen(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(frame(200), path)
    whole, expected, refused = path.read_bytes(), check_records(frame(200)), 0
    for place in range(5, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            pd.testing.assert_frame_equal(read_records(path), expected)
        except ValueError as error:
            refused += 1
            assert "records.parquet" in str(error)
    assert refused > 20


def test_a_failed_write_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.parquet"
    write_records(frame(), path)
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_records(frame(20), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_hash_ignores_order_and_sees_every_column() -> None:
    records = frame()
    digest = records_sha256(records)
    shuffled = records.sample(frac=1, random_state=1)[list(reversed(records.columns))]
    assert records_sha256(shuffled) == digest
    changes = {
        "model": "n",
        "seed": 1,
        "answer_mass": 0.5,
        "logprob_4": -9.0,
        "n_tokens": 41,
        "prompt_sha256": "0",
        "passage_id": "q",
        "fold": 3,
    }
    assert (
        len({records_sha256(records.assign(**{k: v})) for k, v in changes.items()} | {digest})
        == len(changes) + 1
    )
    assert digest == "cb9b68be16a543542e9fb123f7ea4be3d9baec5b8e0e0de44e6e8223b22715bf"


def test_stderr_without_clusters_is_the_plain_one() -> None:
    correct = np.array([True, False, True, True, False, True])
    expected = np.std(correct, ddof=1) / np.sqrt(6)
    assert clustered_stderr(correct, np.arange(6)) == pytest.approx(expected, rel=1e-12)


def test_stderr_agrees_with_cluster_robust_regression_on_a_constant() -> None:
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(60), 3)
    correct = rng.random(180) < np.repeat(rng.random(60), 3)
    fit = sm.OLS(correct.astype(float), np.ones(180)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}
    )
    # They differ in the n - 1 of the variance term alone.
    residual = correct - correct.mean()
    expected = np.sqrt(fit.bse[0] ** 2 + (residual @ residual) * (1 / 179 - 1 / 180) / 180)
    assert clustered_stderr(correct, clusters) == pytest.approx(expected, rel=1e-12)


def test_stderr_of_whole_clusters_grows_as_they_do() -> None:
    correct = np.repeat([True, False], 50)
    plain = clustered_stderr(correct, np.arange(100))
    paired = clustered_stderr(correct, np.arange(100) // 2)
    assert paired / plain == pytest.approx(np.sqrt(2), rel=0.01)
    assert np.isnan(clustered_stderr(correct, np.zeros(100, int)))


def test_position_entropy_in_bits() -> None:
    assert position_entropy(np.array([2, 2, 2])) == 0
    assert position_entropy(np.array([1, 2, 3, 4])) == pytest.approx(2)
    assert position_entropy(np.array([1, 1, 4, 4])) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one prediction"):
        position_entropy(np.array([], int))


def test_summary_is_over_heldout_items_and_families() -> None:
    languages = ("heb_Hebr", "fra_Latn", "arb_Arab")
    heldout = frame(9, languages)
    training = frame(9, languages).assign(
        part="training",
        item_id="t" + heldout["item_id"],
        prediction=frame(9, languages)["gold"],
        correct=True,
    )
    metrics = summarize_records(pd.concat([heldout, training]), FAMILY)
    assert metrics["accuracy/heb_Hebr"] == pytest.approx(6 / 9)
    assert metrics["accuracy_family/related"] == metrics["accuracy/heb_Hebr"]
    assert metrics["answer_mass/fra_Latn"] == pytest.approx(0.77)
    assert set(metrics) == {
        f"{kind}/{code}"
        for code in languages
        for kind in ("accuracy", "stderr", "answer_mass", "position_entropy", "ece")
    } | {"accuracy_family/related", "accuracy_family/control"}
    alone = summarize_records(heldout[heldout["language"] == "heb_Hebr"], FAMILY)
    assert "accuracy_family/control" not in alone


def test_summary_refuses_what_is_not_one_run() -> None:
    with pytest.raises(ValueError, match="summarise one run at a time"):
        summarize_records(pd.concat([frame(), frame().assign(arm="finetuned")]), FAMILY)
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarize_records(frame().assign(part="training"), FAMILY)
    with pytest.raises(ValueError, match="language heb_Hebr has no family"):
        summarize_records(frame(), {})


def test_calibration_error_by_hand() -> None:
    # Two items at confidence 0.7 (one right), two at 0.97 (both right).
    rows = np.log([[0.7, 0.1, 0.1, 0.1]] * 2 + [[0.01, 0.97, 0.01, 0.01]] * 2)
    correct = np.array([True, False, True, True])
    assert expected_calibration_error(rows, correct) == pytest.approx(0.5 * 0.2 + 0.5 * 0.03)


def test_calibration_error_is_small_for_honest_and_large_for_boastful_answers() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0] * 4, 20_000)
    gold = (rng.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    correct = probabilities.argmax(axis=1) == gold
    assert expected_calibration_error(np.log(probabilities), correct) < 0.02
    boastful = np.log(probabilities) * 8
    assert expected_calibration_error(boastful, correct) > 0.2


def test_format_table_shows_a_model_that_knows_one_position_only() -> None:
    records = frame(40).assign(
        prediction=3,
        logprob_1=np.log(0.05),
        logprob_2=np.log(0.05),
        logprob_3=np.log(0.4),
        logprob_4=np.log(0.05),
    )
    records["correct"] = records["gold"] == 3
    table = describe_format(records).set_index("language")
    row = table.loc["heb_Hebr"]
    assert row["predicted_3"] == 1 and row["position_entropy"] == 0
    assert row["prior_3"] == pytest.approx(0.4 / 0.55) and row["prior_1"] < 0.1
    shares = [row[f"gold_{label}"] for label in (1, 2, 3, 4)]
    assert sum(shares) == pytest.approx(1) and row["accuracy"] == row["gold_3"]


def test_an_item_without_any_probability_is_even_and_breaks_nothing() -> None:
    records = frame(8).assign(**{f"logprob_{k}": -np.inf for k in (1, 2, 3, 4)}, answer_mass=0.0)
    row = describe_format(records).iloc[0]
    assert [row[f"prior_{k}"] for k in (1, 2, 3, 4)] == [0.25] * 4
    assert np.isfinite(summarize_records(records, FAMILY)["ece/heb_Hebr"])
