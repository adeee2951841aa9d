"""The simulator: its truth holds, its records are records, its runs are like real ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from simulated_records import frame_of
from simulated_tables import simulated_table, to_records, training_accuracy

from analysis.estimators.position_prior import total_variation
from analysis.gains.cells import gain_cells
from analysis.gains.gain_table import LOGIT, POINTS, gain_table
from analysis.gains.responses import encode_responses
from analysis.measures.formats import PREDICTED, PRIOR, format_measures
from analysis.runs.pull import pull_records
from analysis.simulation.answers import run_count, run_records, simulate_correct
from analysis.simulation.design import Design
from analysis.simulation.log_run import simulated_study, simulation_fingerprint, study_name
from analysis.simulation.probabilities import contrasts_of, draw_probabilities
from analysis.simulation.sheets import PRIOR_SHARES
from entrypoints.simulate import main
from tests.place import make_store
from xling import tracking
from xling.files.result_versions import REASONS
from xling.records import LOGPROB_COLUMNS, check_records, read_records
from xling.study import LONGEST_STUDY_NAME
from xling.tracking.evaluations import log_evaluation

WHOLE = Design(
    models=3,
    related=2,
    control=2,
    items=30,
    training_items=20,
    seeds=2,
    effect=0.1,
    arms=("finetuned", "control-source", "shuffled-labels"),
    cot=True,
    cloze=True,
    permuted=True,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Design


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("models", 0, "models must be at least 1"),
        ("items", 0, "items must be at least 1"),
        ("training_items", -1, "training_items must be at least 0"),
        ("related", 99, r"related is too many: Belebele has 9 such languages \(got 99\)"),
        ("control", 120, "control is too many"),
        ("effect", float("nan"), "effect must be a finite number"),
        ("base_weak", 0.2, "base_weak must lie between 0.25 and 1"),
        ("sd_language", -0.1, "sd_language must not be negative"),
        ("share_item", 0.9, "share_item_model add up to 1.15"),
        ("format", 1.5, "format must lie in 0 to 1"),
        ("cot_correlation", 1.5, "cot_correlation must lie in -1 to 1"),
        ("folds", 0, "folds must be at least 1"),
        ("folds", 51, "folds must not exceed the number of passages, 50"),
        ("scale", "logit", "scale must be one of points, latent"),
        ("arms", ("control-source",), "arms must hold 'finetuned'"),
        ("arms", ("finetuned", "base"), "arms must hold 'finetuned'"),
    ],
)
def test_a_bad_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Design(), **{field: value})


def test_languages_are_the_studys_own_first() -> None:
    design = Design(related=5, control=5)
    assert design.targets[:5] == ("heb_Hebr", "amh_Ethi", "mlt_Latn", "tir_Ethi", "acm_Arab")
    assert design.targets[5:] == ("jpn_Jpan", "kor_Hang", "fra_Latn", "eng_Latn", "afr_Latn")
    assert design.languages[-1] == "arb_Arab"
    assert list(design.families.values()) == ["related"] * 5 + ["control"] * 5 + ["source"]
    assert [name[:8] for name in design.model_names] == ["sim-weak"] * 4 + ["sim-stro"] * 3


# Truth


def test_planted_effects_are_in_the_cells() -> None:
    names = ("sd_model_base", "sd_language_base", "sd_language", "sd_model_language", "sd_seed")
    design = replace(WHOLE, weak_effect=0.06, **dict.fromkeys(names, 0.0))
    cells = draw_probabilities(design, rng())
    gain = {arm: after[0] - cells.before for arm, after in cells.after.items()}
    assert contrasts_of(gain["finetuned"], design) == pytest.approx((0.14, 0.06))
    assert design.true_contrasts() == pytest.approx((0.14, 0.06))
    for arm in ("control-source", "shuffled-labels"):
        assert contrasts_of(gain[arm], design) == pytest.approx((0.0, 0.0))
        assert design.true_contrasts(arm) == (0.0, 0.0)
    np.testing.assert_allclose(gain["control-source"][:, 0], [0.3, 0.3, 0.05])
    np.testing.assert_allclose(gain["shuffled-labels"], 0.5 * gain["control-source"])
    permuted = cells.after["finetuned"][0] - cells.permuted_before
    np.testing.assert_allclose(permuted[:, 2], [0.225, 0.225, 0.0375])
    cloze = cells.after["finetuned"][0] - cells.cloze_before
    np.testing.assert_allclose(cloze[:, 2], [0.15, 0.15, 0.025])
    assert contrasts_of(cloze, design) == pytest.approx((0.14, 0.06))
    assert cells.clipped == 0


def test_a_latent_effect_is_a_shift_of_the_guess_corrected_logit() -> None:
    design = Design(
        scale="latent", effect=0.4, sd_language=0, sd_model_language=0, sd_seed=0, control=3
    )
    cells = draw_probabilities(design, rng())

    def eta(p: np.ndarray) -> np.ndarray:
        known = (p - 0.25) / 0.75
        return np.log(known / (1 - known))

    gain = eta(cells.after["finetuned"][0]) - eta(cells.before)
    np.testing.assert_allclose(gain[:, 3:6], 0.8, atol=1e-9)
    np.testing.assert_allclose(gain[:, :3], 1.2, atol=1e-9)


def test_answers_are_right_with_the_cells_probability() -> None:
    """Marginally exact, whatever is shared: the copula keeps every cell's p."""
    design = Design(models=2, related=1, control=1, items=60_000, training_items=0, share_item=0.5)
    answers = simulate_correct(design, rng())
    for p, correct in (
        (answers.probability.before, answers.correct_before),
        (answers.probability.after["finetuned"], answers.correct_after["finetuned"]),
    ):
        # Passages and languages share effects, so four standard errors of one item per passage.
        np.testing.assert_allclose(correct.mean(axis=-1), p, atol=4 * 0.5 / np.sqrt(30_000))


def test_items_and_passages_are_shared_as_asked() -> None:
    def agreement(**shares: float) -> tuple[float, float]:
        none = dict.fromkeys(
            ("share_passage", "share_item", "share_item_language", "share_item_model"), 0.0
        )
        design = Design(models=2, related=1, control=1, items=8000, **{**none, **shares})
        x = simulate_correct(design, rng()).correct_before.astype(float)
        models = np.corrcoef(x[0, 0], x[1, 0])[0, 1]
        passage = np.corrcoef(x[0, 0, ::2], x[0, 0, 1::2])[0, 1]
        return models, passage

    assert agreement() == pytest.approx((0, 0), abs=0.05)
    item = agreement(share_item=0.6)
    assert item[0] > 0.3 and abs(item[1]) < 0.05
    passage = agreement(share_passage=0.6)
    assert passage[0] > 0.3 and passage[1] > 0.3
    assert agreement(share_item_language=0.6)[0] > 0.3
    assert agreement(share_item_model=0.6) == pytest.approx((0, 0), abs=0.05)


def test_before_and_after_are_correlated_and_a_draw_repeats() -> None:
    design = Design(models=1, related=1, control=1, items=8000)
    one, two = (simulate_correct(design, rng(5)) for _ in range(2))
    before, after = one.correct_before[0, 0], one.correct_after["finetuned"][0, 0, 0]
    assert np.corrcoef(before, after)[0, 1] > 0.15
    np.testing.assert_array_equal(one.correct_before, two.correct_before)
    pd.testing.assert_frame_equal(to_records(one, design), to_records(two, design))
    other = simulate_correct(design, rng(6))
    assert (one.correct_before != other.correct_before).any()


@pytest.mark.parametrize(("effect", "weak_effect"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)])
def test_mean_estimates_are_the_truth(effect: float, weak_effect: float) -> None:
    design = Design(effect=effect, weak_effect=weak_effect)
    generator, found = rng(1), []
    for _ in range(600):
        answers = simulate_correct(design, generator)
        table = simulated_table(answers, design)
        found.append(contrasts_of(table.gain[POINTS], design))
        assert answers.truth["clipped"] < 0.05
    mean = np.mean(found, axis=0)
    # Four standard errors of the mean: D 2.6 points, I 4.1 points a replicate.
    assert mean[0] == pytest.approx(effect + weak_effect * 4 / 7, abs=4 * 0.026 / np.sqrt(600))
    assert mean[1] == pytest.approx(weak_effect, abs=4 * 0.041 / np.sqrt(600))


def test_the_spread_is_that_of_the_specification() -> None:
    """Standard errors behind the minimal detectable effects of 9.6 (D) and 15 points (I)."""
    design, generator = Design(), rng(2)
    found = np.array(
        [
            contrasts_of(simulated_table(simulate_correct(design, generator), design).gain[POINTS],
                         design)
            for _ in range(800)
        ]
    )  # fmt: skip
    # A standard deviation over 800 replicates is known to 2.5 %.
    np.testing.assert_allclose(found.std(axis=0) * 3.76, [0.096, 0.150], rtol=0.1)


def test_reasoning_gains_correlate_with_fine_tuning_as_asked() -> None:
    def mean_r(correlation: float) -> float:
        design = Design(cot=True, cot_correlation=correlation, items=1, training_items=0)
        found = []
        for seed in range(200):
            cells = draw_probabilities(design, rng(seed))
            start = cells.before.mean(axis=1)
            cot = (cells.cot.mean(axis=1) - start) / (1 - start)
            tuned = (cells.after["finetuned"].mean(axis=(0, 2)) - start) / (1 - start)
            found.append(np.corrcoef(cot, tuned)[0, 1])
        return float(np.mean(found))

    assert abs(mean_r(0.0)) < 0.1
    assert mean_r(0.9) > 0.75


# Records


@pytest.fixture(scope="module")
def whole() -> tuple[pd.DataFrame, object]:
    answers = simulate_correct(WHOLE, rng(3))
    return to_records(answers, WHOLE), answers


def test_records_are_the_contracts(whole) -> None:
    records, answers = whole
    pd.testing.assert_frame_equal(check_records(records), records)
    assert run_count(WHOLE) == len(list(run_records(answers, WHOLE))) == 42
    logprobs = records[list(LOGPROB_COLUMNS)].to_numpy()
    np.testing.assert_array_equal(logprobs.argmax(axis=1) + 1, records["prediction"])
    token = (records["scoring"] != "cloze").to_numpy()
    mass = records["answer_mass"].to_numpy()
    np.testing.assert_allclose(np.exp(logprobs[token]).sum(axis=1), mass[token])
    assert np.isnan(mass[~token]).all()
    assert (records.groupby("item_id")["gold"].nunique() == 1).all()
    training = records[records["part"] == "training"]
    assert set(training["arm"]) == {"base"}
    assert set(training["scoring"]) == {"answer-token", "cloze", "permuted"}
    prompts = records.groupby(["language", "item_id", "reasoning", "scoring"])["prompt_sha256"]
    assert (prompts.nunique() == 1).all() and records["prompt_sha256"].nunique() == len(prompts)


def test_wrong_predictions_fall_on_all_wrong_options_alike() -> None:
    design = Design(models=1, related=1, control=1, items=3000, training_items=0)
    records = to_records(simulate_correct(design, rng()), design)
    wrong = records[~records["correct"]]
    away = ((wrong["prediction"] - wrong["gold"]) % 4).value_counts(normalize=True)
    assert set(away.index) == {1, 2, 3}
    np.testing.assert_allclose(away, 1 / 3, atol=0.03)


def test_an_arm_of_shuffled_labels_shows_the_positions_that_it_was_trained_on() -> None:
    design = Design(
        models=2, related=1, control=1, items=4000, arms=("finetuned", "shuffled-labels")
    )
    records = to_records(simulate_correct(design, rng()), design)
    heldout = records[records["part"] == "heldout"]
    seen = format_measures(heldout).groupby("arm")[[*PRIOR, *PREDICTED]].mean()
    apart = {
        arm: total_variation(seen.loc[arm, list(PRIOR)].to_numpy(), np.array(PRIOR_SHARES))
        for arm in seen.index
    }
    assert apart["shuffled-labels"] < 0.08 < 0.12 < min(apart["base"], apart["finetuned"])
    np.testing.assert_allclose(
        seen.loc["shuffled-labels", list(PREDICTED)].astype(float), PRIOR_SHARES, atol=0.06
    )
    golds = heldout.drop_duplicates("item_id")["gold"].value_counts(normalize=True).sort_index()
    np.testing.assert_allclose(golds, PRIOR_SHARES, atol=4 * 0.5 / np.sqrt(4000))


def test_folds_hold_every_item_out_once_and_keep_passages_together() -> None:
    design = replace(WHOLE, folds=4, items_per_passage=3)
    records = to_records(simulate_correct(design, rng()), design)
    assert set(records["part"]) == {"heldout"} and set(records["fold"]) == {0, 1, 2, 3}
    assert (records.groupby("passage_id")["fold"].nunique() == 1).all()
    assert (records.groupby("item_id")["fold"].nunique() == 1).all()
    assert (to_records(simulate_correct(WHOLE, rng()), WHOLE)["fold"] == 0).all()


def test_answer_mass_moves_with_the_format_share() -> None:
    def masses(share: float) -> tuple[float, float]:
        design = Design(models=2, related=1, control=1, training_items=0, format=share)
        records = to_records(simulate_correct(design, rng()), design)
        by_arm = records.groupby("arm")["answer_mass"].mean()
        return float(by_arm["base"]), float(by_arm["finetuned"])

    base, none = masses(0.0)
    assert 0.5 < base < 0.7 and none == pytest.approx(base, abs=0.02)
    assert base + 0.1 < masses(0.5)[1] < 0.93
    assert masses(1.0)[1] == pytest.approx(0.965, abs=0.01)


@pytest.mark.parametrize(
    "condition",
    [
        ("finetuned", "direct", "answer-token"),
        ("control-source", "direct", "answer-token"),
        ("finetuned", "direct", "cloze"),
        ("finetuned", "direct", "permuted"),
    ],
)
def test_the_direct_table_is_the_one_that_records_give(whole, condition) -> None:
    records, answers = whole
    keys = ["model", "arm", "seed", "reasoning", "scoring", "language"]
    heldout = records[records["part"] == "heldout"]
    accuracies = heldout.groupby(keys)["correct"].mean().rename("accuracy").reset_index()
    cells = gain_cells(records, accuracies.assign(has_records=True, run_id="r"), WHOLE.families)
    want = gain_table(cells, encode_responses(records), WHOLE.families, condition)
    got = simulated_table(answers, WHOLE, condition[0], condition[2])
    m = [got.models.index(name) for name in want.models]
    at = [got.languages.index(code) for code in want.languages]
    assert (got.condition, got.status, got.shared) == (want.condition, want.status, want.shared)
    np.testing.assert_array_equal(got.related[at], want.related)
    for name in ("before", "after", "after_by_seed"):
        mine, theirs = getattr(got, name), getattr(want, name)
        np.testing.assert_allclose(mine[..., m, :][..., at], theirs)
    for scale in (POINTS, LOGIT):
        np.testing.assert_allclose(got.gain[scale][m][:, at], want.gain[scale])
    for name in ("before", "after", "prediction_before", "prediction_after", "mass_before",
                 "mass_after"):  # fmt: skip
        mine, theirs = getattr(got.items, name), getattr(want.items, name)
        np.testing.assert_array_equal(mine[..., m, :, :][..., at, :], theirs)
        assert mine.dtype == theirs.dtype
    np.testing.assert_array_equal(got.items.passage, want.items.passage)


def test_training_accuracy_is_that_of_the_records(whole) -> None:
    records, answers = whole
    rows = records[(records["part"] == "training") & (records["scoring"] == "answer-token")]
    want = rows.groupby(["model", "language"])["correct"].mean()
    got = training_accuracy(answers, WHOLE)
    for m, model in enumerate(WHOLE.model_names):
        for at, code in enumerate(WHOLE.targets):
            assert got[m, at] == pytest.approx(want[model, code])


def test_a_condition_that_the_design_lacks_is_refused() -> None:
    design = Design(items=2)
    answers = simulate_correct(design, rng())
    with pytest.raises(ValueError, match="the design has no finetuned/direct/cloze"):
        simulated_table(answers, design, scoring="cloze")


# Runs


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(make_store(tmp_path / "mlflow.db"))
    yield tmp_path
    # None, not the address from before: one that is set by hand hides MLFLOW_TRACKING_URI.
    mlflow.set_tracking_uri(None)


SMALL = ["--models", "2", "--related", "2", "--control", "2", "--items", "10"]


def simulate(*options: str):
    return CliRunner().invoke(main, [*SMALL, *options])


@pytest.mark.slow
def test_a_simulated_study_is_logged_and_pulled_like_a_real_one(store: Path) -> None:
    done = simulate("--effect", "0.1", "--seed", "3")
    assert done.exit_code == 0, done.output
    name = "simulated-models-2-related-2-control-2-items-10-effect-0_1-seed-3"
    assert "Truth: D = +10 points, I = +0 points, B = +25 points" in done.output
    assert f"-e analyze --env-manager local --experiment-name xling -P study={name}" in done.output
    (parent,) = tracking.find_runs(kind="study", study=name)
    assert "-P effect=0.1" in parent.tags["xling.command"]
    truth = json.loads(
        tracking.download_artifact(parent.run_id, "truth.json", store / "got").read_text()
    )
    assert (truth["D"], truth["I"], truth["seed"]) == (0.1, 0.0, 3)
    pulled = pull_records(
        tracking, study=name, experiment="", folder=store / "runs", progress=False
    )
    assert len(pulled.run_ids) == 4 and not pulled.notes
    design = Design(models=2, related=2, control=2, items=10, effect=0.1)
    keys = ["model", "arm", "part", "language", "item_id"]
    want = to_records(simulate_correct(design, rng(3)), design)
    pd.testing.assert_frame_equal(
        pulled.records.sort_values(keys, ignore_index=True),
        want.sort_values(keys, ignore_index=True),
    )
    run = tracking.get_run(pulled.run_ids[0])
    assert run.tags["mlflow.parentRunId"] == parent.run_id
    assert run.metrics["accuracy_family/related"] > 0
    # Again: the finished one is reused; by force it is logged once more.
    assert parent.run_id in simulate("--effect", "0.1", "--seed", "3").output
    assert parent.run_id not in simulate("--effect", "0.1", "--seed", "3", "--force", "1").output


@pytest.mark.slow
def test_a_study_of_more_languages_than_a_tag_holds_is_logged(store: Path) -> None:
    options = ["--models", "2", "--related", "9", "--control", "100", "--items", "4"]
    done = CliRunner().invoke(main, [*options, "--name", "all"])
    assert done.exit_code == 0, done.output
    run = tracking.find_runs(kind="evaluate", study="all")[0]
    inputs = mlflow.get_run(run.run_id).inputs.dataset_inputs
    listed = {tag.value for found in inputs for tag in found.tags if tag.key == "languages"}
    assert {len(text) <= 500 and text.split(" and ")[1].endswith(" more") for text in listed} == {
        True
    }


def test_a_simulation_is_made_again_where_its_version_was_raised(monkeypatch) -> None:
    first = simulation_fingerprint(WHOLE, 0)
    assert first != simulation_fingerprint(WHOLE, 1)
    monkeypatch.setitem(REASONS, "train", (*REASONS["train"], "a test"))
    assert simulation_fingerprint(WHOLE, 0) == first
    monkeypatch.setitem(REASONS, "simulate", (*REASONS["simulate"], "a test"))
    assert simulation_fingerprint(WHOLE, 0) != first


@pytest.mark.slow
def test_a_name_is_kept_for_one_simulation(store: Path) -> None:
    assert simulate("--name", "mine").exit_code == 0
    other = simulate("--name", "mine", "--seed", "1")
    assert other.exit_code == 1
    assert "study 'mine' already has other runs" in other.output
    (run,) = tracking.find_runs(kind="study", study="mine")
    assert run.params["cfg.simulation.items"] == "10"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "demo"), "'demo' is the name of a study file"),
        (("--name", "a b"), "may hold letters, digits, _ and - only"),
        (("--related", "99"), "Belebele has 9 such languages"),
        (("--arms", "base"), "arms must hold 'finetuned'"),
        (("--effect", "nan"), "'--effect': 'nan' is not a finite number"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_logged(store, options, message) -> None:
    (store / "mlflow.db").unlink()
    done = simulate(*options)
    assert done.exit_code in (1, 2) and message in done.output
    assert not (store / "mlflow.db").exists()


def test_the_study_file_says_that_it_is_simulated() -> None:
    study = simulated_study(WHOLE, 4, study_name(WHOLE, 4))
    assert "Simulated answers" in study.description and "D = +10 points" in study.description
    assert study.languages.families == {"arb_Arab": "source"} | WHOLE.families
    assert "effect-0_1-arms-finetuned-control-source-shuffled-labels-cot-cloze-" in study.name
    assert len(study.name) == LONGEST_STUDY_NAME  # a hash stands for the end of what differs
    assert study.name != study_name(WHOLE, 5)
    assert study_name(Design(), 0) == "simulated"
    assert study.arms == ("base", *WHOLE.arms) and study.reasoning == ("direct", "cot")
    assert study.scoring_modes == ("answer-token", "permuted", "cloze")
    assert study.languages.control_source == ("fra_Latn",)  # unrelated, and no target
    folds = simulated_study(replace(WHOLE, folds=5), 0, "folds")
    assert (folds.data.split, folds.data.folds, folds.data.baseline_items) == ("cross-fit", 5, 0)
    every = Design(arms=("finetuned", "control-source"), control=111)
    assert every.control_source == every.targets[-1:]


CELL = {"model": "m", "arm": "base", "seed": 0, "reasoning": "direct", "scoring": "answer-token"}
FAMILIES = {"heb_Hebr": "related", "mlt_Latn": "related", "fra_Latn": "control"}


def test_accuracies_alone_are_logged_with_what_is_known(store: Path) -> None:
    tracking.open_store()
    run_id = log_evaluation(
        study="s", name="n", params=CELL, tags={"command": "c"}, families=FAMILIES,
        accuracy={"heb_Hebr": 0.5, "mlt_Latn": 0.7, "fra_Latn": 0.8},
        known={
            "n_items": {"heb_Hebr": 100, "mlt_Latn": 100}, "stderr": {"mlt_Latn": 0.06},
            "n_options": {"heb_Hebr": 2},
        },
    )  # fmt: skip
    run = tracking.get_run(run_id)
    assert run.metrics == pytest.approx(
        {
            "accuracy/heb_Hebr": 0.5, "accuracy/mlt_Latn": 0.7, "accuracy/fra_Latn": 0.8,
            "n_items/heb_Hebr": 100, "stderr/heb_Hebr": 0.05, "n_options/heb_Hebr": 2,
            "n_items/mlt_Latn": 100, "stderr/mlt_Latn": 0.06,
            "accuracy_family/related": 0.6, "accuracy_family/control": 0.8,
        }
    )  # fmt: skip
    assert run.tags["xling.command"] == "c" and "xling.records_sha256" not in run.tags
    assert run.params["cfg.model"] == "m"


@pytest.mark.slow
def test_records_are_logged_with_the_digest_of_their_file(store: Path) -> None:
    tracking.open_store()
    frame = frame_of(np.arange(10) < 6, model="m", language="heb_Hebr")
    run_id = log_evaluation(
        study="s", name="n", params=CELL, tags={}, families=FAMILIES, records=frame
    )
    run = tracking.get_run(run_id)
    path = tracking.download_artifact(run_id, "records.parquet", store / "got")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert run.tags["xling.records_sha256"] == digest
    pd.testing.assert_frame_equal(read_records(path), check_records(frame))
    assert run.metrics["accuracy/heb_Hebr"] == 0.6


def test_a_bad_evaluation_is_refused_and_nothing_logged(store: Path) -> None:
    (store / "mlflow.db").unlink()
    cases = [
        ({}, "give either item records or accuracies"),
        ({"accuracy": {}}, "no language has an accuracy"),
        ({"accuracy": {"heb_Hebr": 55.0}}, "accuracy 55.0 in heb_Hebr lies outside 0 to 1"),
        ({"accuracy": {"heb_Hebr": float("nan")}}, "lies outside 0 to 1"),
        ({"accuracy": {"deu_Latn": 0.5}}, "language deu_Latn has no family"),
        *(
            ({"accuracy": {"heb_Hebr": 0.5}, "known": {key: {"heb_Hebr": value}}}, message)
            for key, value, message in (
                ("n_items", 0, "n_items 0 in heb_Hebr; give 1 to"),
                ("stderr", 0.6, "stderr 0.6 in heb_Hebr; give 0 to 0.5"),
                ("n_options", 1, "n_options 1 in heb_Hebr; give 2 to 26"),
            )
        ),
    ]
    for values, message in cases:
        with pytest.raises(ValueError, match=message):
            log_evaluation(study="s", name="n", params=CELL, tags={}, families=FAMILIES, **values)
    assert not (store / "mlflow.db").exists()
