"""Variance components of known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.estimates import OK
from analysis.estimators.variance import (
    VarianceComponents,
    interaction_variance,
    language_variance,
    variance_components,
)
from analysis.gains.gain_table import POINTS, PRIMARY, GainTable
from analysis.gains.items import ItemGains


def made_table(after: np.ndarray, related: np.ndarray) -> GainTable:
    """A table of given gains by item, shape (seeds, models, languages, items)."""
    seeds, models, languages, n_items = after.shape
    zeros = np.zeros(after.shape[1:])
    items = ItemGains(np.arange(n_items), zeros, after, zeros, after, zeros, after)
    gain = after.mean(axis=(0, 3))
    shared = {"unit": "languages", "n_models": models, "n_related": int(related.sum()),
              "n_control": int((~related).sum()), "n_items": n_items, "n_passages": n_items,
              "n_seeds": seeds}  # fmt: skip
    return GainTable(
        condition=PRIMARY, models=tuple(f"m{k}" for k in range(models)),
        languages=tuple(f"l{k}" for k in range(languages)), related=related,
        before=zeros.mean(axis=2), after=gain, after_by_seed=after.mean(axis=3),
        gain={POINTS: gain}, status=OK, shared=shared, items=items, item_status="",
    )  # fmt: skip


def drawn(
    rng: np.random.Generator,
    truth: VarianceComponents,
    *,
    sizes: tuple[int, int, int, int],
    related: int,
) -> GainTable:
    """Normal gains with the given components, on top of all that must not matter."""
    seeds, models, languages, items = sizes
    family = np.arange(languages) < related

    def part(variance: float, *shape: int) -> np.ndarray:
        return rng.normal(0, variance**0.5, shape)

    after = part(truth.language, 1, 1, languages, 1) + part(
        truth.model_language, 1, models, languages, 1
    )
    after = after + part(truth.seed, seeds, models, languages, 1)
    after = after + part(truth.item_language, 1, 1, languages, items)
    after = after + part(truth.residual - truth.residual_seed, 1, models, languages, items)
    after = after + part(truth.residual_seed, seeds, models, languages, items)
    after = after + 0.2 * family[:, None]
    after = after + part(0.3, 1, models, 1, 1) * (1 + family[:, None])
    after = after + part(0.3, 1, 1, 1, items) + part(0.2, 1, models, 1, items)
    return made_table(after + part(0.2, seeds, models, 1, 1), family)


TRUTH = VarianceComponents(
    language=0.02, model_language=0.03, seed=0.01, item_language=0.05, residual=0.32,
    source="truth", note="", residual_seed=0.1,
)  # fmt: skip
PARTS = ("language", "model_language", "seed", "item_language", "residual", "residual_seed")


def test_components_are_found_without_bias() -> None:
    rng = np.random.default_rng(5)
    found = [
        variance_components(drawn(rng, TRUTH, sizes=(2, 6, 30, 30), related=12)) for _ in range(150)
    ]
    for name in PARTS:
        values = np.array([getattr(one, name) for one in found])
        error = values.std(ddof=1) / len(values) ** 0.5
        assert values.mean() == pytest.approx(getattr(TRUTH, name), abs=4 * error), name
        assert error < 0.03 * getattr(TRUTH, name) + 1e-3


def test_own_components_give_back_the_variance_between_languages() -> None:
    table = drawn(np.random.default_rng(6), TRUTH, sizes=(3, 5, 9, 40), related=4)
    found = variance_components(table)
    assert found.note == ""
    means = table.gain[POINTS].mean(axis=0)
    pooled = sum(((part - part.mean()) ** 2).sum() for part in table.split(means)) / 7
    assert language_variance(found, 5, 40, 3) == pytest.approx(pooled, rel=1e-9)


def test_one_seed_is_part_of_model_by_language() -> None:
    table = drawn(np.random.default_rng(7), TRUTH, sizes=(1, 5, 40, 200), related=20)
    found = variance_components(table)
    assert (found.seed, found.residual_seed) == (0.0, 0.0)
    assert "one seed" in found.note
    assert found.model_language == pytest.approx(0.04, rel=0.25)
    assert found.residual == pytest.approx(0.32, rel=0.1)


def test_a_negative_component_is_set_to_0_and_said() -> None:
    nothing = replace(TRUTH, language=0.0, item_language=0.0, residual=0.4, seed=0.0)
    rng = np.random.default_rng(8)
    found = [
        variance_components(drawn(rng, nothing, sizes=(2, 4, 6, 20), related=3)) for _ in range(20)
    ]
    for name in ("language", "item_language", "seed"):
        zero = [one for one in found if getattr(one, name) == 0]
        assert 3 < len(zero) < 18
        assert all(f"component {name} came out below 0 and is set to 0" in one.note for one in zero)
        assert not any(
            f"component {name} came" in one.note for one in found if getattr(one, name) > 0
        )


@pytest.mark.parametrize("seeds", [1, 3])
def test_variances_of_a_contrast(seeds: int) -> None:
    rng = np.random.default_rng(9)
    table = drawn(rng, TRUTH, sizes=(seeds, 5, 4000, 10), related=2000)
    gain = table.gain[POINTS]
    for values, expected in (
        (gain.mean(axis=0), language_variance(TRUTH, 5, 10, seeds)),
        (gain[:2].mean(axis=0) - gain[2:].mean(axis=0),
         interaction_variance(TRUTH, 2, 3, 10, seeds)),
    ):  # fmt: skip
        # An item's own gain in all languages and a model's own cancel, here as in the contrast.
        within = np.mean([np.var(part, ddof=1) for part in table.split(values)])
        assert within == pytest.approx(expected, rel=0.08)
