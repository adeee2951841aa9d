"""Logs a simulated study as ordinary runs, so that it can be analysed like a real one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from analysis.simulation.answers import SimulatedAnswers, run_count, run_records, simulate_correct
from analysis.simulation.design import BRANCH, SOURCE, Design
from xling import tracking
from xling.files.result_versions import result_versions
from xling.study import LONGEST_STUDY_NAME, Study
from xling.tracking.evaluations import log_evaluation

ENTRY_POINT = "simulate"


def study_name(design: Design, seed: int, name: str = "") -> str:
    """Return the given name, or ``simulated`` and what differs from the default design.

    Such as ``simulated-effect-0_1-seed-3``: letters, digits, _ and - only. Where much differs, a
    hash stands for the end of it.
    """
    if name:
        return name
    changed = design.changed() | ({"seed": seed} if seed else {})
    whole = "-".join(["simulated", *(_in_a_name(key, value) for key, value in changed.items())])
    if len(whole) <= LONGEST_STUDY_NAME:
        return whole
    ending = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{whole[: LONGEST_STUDY_NAME - len(ending) - 1]}-{ending}"


def log_simulation(
    design: Design, seed: int, *, name: str = "", parameters: Mapping[str, Any], force: bool = False
) -> str:
    """Simulate a study and log it: a study run, and in it an evaluate run for every cell.

    The study run has ``study.yaml`` and ``truth.json``.

    Args:
        design: what to simulate.
        seed: of every draw.
        name: of the study; empty: see `study_name`.
        parameters: as the entry point got them, for ``xling.command``.
        force: log again even if a finished run has the same fingerprint.

    Returns:
        Id of the study run, or of the finished one that has the same.

    Raises:
        ValueError: the name does not fit, or has runs of another study already.
    """
    called = study_name(design, seed, name)
    study = simulated_study(design, seed, called)

    def log() -> str:
        return _log_study(design, seed, study, parameters)

    digest = simulation_fingerprint(design, seed)
    return tracking.run_once(log, digest, kind="study", study=called, name=called, force=force)


def _log_study(design: Design, seed: int, study: Study, parameters: Mapping[str, Any]) -> str:
    called, described = study.name, _design_hash(design, seed)
    digest = simulation_fingerprint(design, seed)
    _refuse_other_runs(called, described)
    tags = {"command": tracking.run_command(ENTRY_POINT, parameters), "design": described}
    answers = simulate_correct(design, np.random.default_rng(seed))
    with tracking.tracked_run(
        "study",
        name=f"study {called}",
        study=called,
        params={"seed": seed, "simulation": dataclasses.asdict(design)},
        tags={**tags, "fingerprint": digest, **study.analysis_tags},
    ) as run_id:
        tracking.log_text(study.to_yaml(), "study.yaml")
        tracking.log_json(truth_of(answers, design, seed), "truth.json")
        _log_cells(answers, design, called, tags, digest)
    return run_id


def simulation_fingerprint(design: Design, seed: int) -> str:
    """Hash all that decides the simulated answers."""
    return _sha256(
        {
            "design": _design_hash(design, seed),
            "versions": result_versions([ENTRY_POINT]),
            "numpy": np.__version__,
        }
    )


def simulated_study(design: Design, seed: int, name: str) -> Study:
    """Make the study file of a simulation; its description gives the truth."""
    scorings = {"permuted": design.permuted, "cloze": design.cloze}
    return Study.model_validate(
        {
            "name": name,
            "description": "Simulated answers of known truth, not a finding: "
            f"{_truth_words(design)}. Seed {seed}.",
            "models": tuple({"id": model} for model in design.model_names),
            "data": {
                "source": "folder", "path": "simulated",
                **_split(design),
            },
            "languages": {
                "source": (SOURCE,), "target": design.targets, "branch": BRANCH,
                "control_source": design.control_source,
            },
            "arms": ("base", *design.arms),
            "reasoning": ("direct", "cot") if design.cot else ("direct",),
            "scoring_modes": ("answer-token", *(name for name, on in scorings.items() if on)),
            "seeds": tuple(range(design.seeds)),
        }
    )  # fmt: skip


def truth_of(answers: SimulatedAnswers, design: Design, seed: int) -> dict[str, Any]:
    """Write truth.json: the design, D and I as planted and as drawn, P(right) by cell."""
    cells = answers.probability
    arms = {}
    for arm, after in cells.after.items():
        d, interaction = design.true_contrasts(arm)
        by_cell = _by_cell(after.mean(axis=0), design)
        arms[arm] = {"D": d, "I": interaction, "probability": by_cell}
    return {
        "note": "simulated: D and I as planted are on the design's scale; D_points and I_points "
        "are what the drawn cells have, chance in languages included",
        "scale": design.scale,
        **answers.truth,
        "B": design.true_strength,
        "seed": seed,
        "design": dataclasses.asdict(design),
        "arms": arms,
        "probability_base": _by_cell(cells.before, design),
    }


def truth_line(design: Design) -> str:
    """Say the planted truth in one line."""
    return f"Truth: {_truth_words(design)}"


def _log_cells(
    answers: SimulatedAnswers, design: Design, study: str, tags: Mapping[str, str], digest: str
) -> None:
    progress = tqdm(
        run_records(answers, design), total=run_count(design), desc="evaluate runs", unit="run"
    )
    for (model, arm, seed, reasoning, scoring), records in progress:
        params = {
            "model": model, "arm": arm, "seed": seed, "reasoning": reasoning, "scoring": scoring,
        }  # fmt: skip
        log_evaluation(
            study=study,
            name=f"evaluate {model}/{arm}/seed-{seed}/{reasoning}/{scoring}",
            params=params | {"engine": "simulated"},
            tags={**tags, "fingerprint": _sha256({"study": digest, **params})},
            families=design.families,
            records=records,
        )


def _refuse_other_runs(study: str, described: str) -> None:
    """Refuse other runs under the same name, which would be analysed together with these."""
    for run in tracking.find_runs(kind="evaluate", study=study):
        if run.tags.get("xling.design") != described:
            raise ValueError(
                f"study {study!r} already has other runs ({run.name}, {run.run_id}); "
                "give the simulation another name"
            )


def _split(design: Design) -> dict[str, Any]:
    """Write how the study file says what is held out."""
    if design.folds > 1:
        return {"split": "cross-fit", "folds": design.folds, "held_out": design.items}
    return {"held_out": design.items, "baseline_items": design.training_items}


def _by_cell(values: np.ndarray[Any, Any], design: Design) -> dict[str, dict[str, float]]:
    """Turn (M, L) into model to language to a number."""
    return {
        model: dict(zip(design.languages, map(float, row), strict=True))
        for model, row in zip(design.model_names, values, strict=True)
    }


def _truth_words(design: Design) -> str:
    factor, unit = (100, "points") if design.scale == "points" else (1, "logits (latent scale)")
    d, interaction = design.true_contrasts()
    truths = {"D": d, "I": interaction, "B": design.true_strength}
    return ", ".join(
        f"{name} = {factor * value:+.4g} {unit}"
        for name, value in truths.items()
        if value is not None
    )


def _in_a_name(key: str, value: object) -> str:
    if value is True:
        return key
    text = "-".join(map(str, value)) if isinstance(value, tuple) else format(value)
    return f"{key}-{re.sub(r'[^A-Za-z0-9_-]', '_', text)}"


def _design_hash(design: Design, seed: int) -> str:
    return _sha256({"design": dataclasses.asdict(design), "seed": seed})


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
