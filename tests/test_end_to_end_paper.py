"""The published study as shipped, its models tiny and its items few."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from analysis.estimators.chain_of_thought import AGREEMENT
from tests.place import Place, estimates_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model) -> Place:
    paper = yaml.safe_load(files("xling").joinpath("studies", "paper.yaml").read_text("utf-8"))
    shorter = {
        "data": {"source": "mini", "split": "given", "held_out": 6, "baseline_items": 4},
        "chain_of_thought": {**paper["chain_of_thought"], "max_tokens": 4},
    }
    kept = {key: paper[key] for key in ("languages", "arms", "reasoning", "seeds", "lora")}
    return Place(
        tmp_path_factory.mktemp("paper"),
        {"tiny-llama": tiny_model("llama"), "tiny-experts": tiny_model("qwen3_moe")},
        **kept,
        **shorter,
        training=dict(paper["training"]),
    )


def test_a_shortened_copy_runs_its_arms_and_reasons_with_the_base_models_alone(place):
    done = place.mlflow_run("main", study=place.study)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = {
        tuple(run.data.params[f"cfg.{key}"] for key in ("model", "arm", "reasoning"))
        for run in place.runs("evaluate")
    }
    assert cells == {
        (model, arm, reasoning)
        for model in ("tiny-llama", "tiny-experts")
        for arm, reasoning in (("base", "direct"), ("base", "cot"), ("finetuned", "direct"))
    }
    reasoned = next(r for r in place.runs("evaluate") if r.data.params["cfg.reasoning"] == "cot")
    assert 0 < reasoned.data.metrics["reasoning_tokens/heb_Hebr"] <= 4
    (analysis,) = place.runs("analyze")
    file = place.client().download_artifacts(analysis.info.run_id, "estimates.json")
    (agreement,) = [r for r in estimates_of(Path(file).parent) if r.estimand == AGREEMENT]
    assert agreement.n_models == 2  # both models have the three cells that it needs
