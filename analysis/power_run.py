"""The power run: what a design can see, from given variances or from a study's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from analysis.estimates import OK, Estimate, write_estimates
from analysis.estimators.baseline_strength import strength_rows
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.power import power_rows, power_table
from analysis.estimators.variance import DEFAULT_COMPONENTS, VarianceComponents, variance_components
from analysis.figures.power import power_figure
from analysis.figures.style import save_figure
from analysis.gains.comparisons import StudyDesign, compare_runs
from analysis.gains.gain_table import PRIMARY
from analysis.runs.model_origins import model_origins
from analysis.runs.pull import PulledRuns, pull_records
from analysis.tables.write import write_table
from xling import tracking
from xling.study import Study

_ITEMS = (50, 100, 200, 400, 900)
_LANGUAGES = ((3, 3), (6, 10), (10, 20))
_MODELS = (4, 7, 15)
_SEEDS = (1, 3)
BOUND = 0.05
"""Of the equivalence tests, which the standard errors do not depend on."""
_REACH = ("mde_d", "bound_d", "mde_i", "bound_i")


@dataclass(frozen=True)
class Design:
    """Sizes of a study: models, related and control languages, items per language, seeds."""

    models: int
    related: int
    control: int
    items: int
    seeds: int


@dataclass(frozen=True)
class PowerResult:
    """What a power run found.

    `table` has the columns POWER_COLUMNS (proportions), `design` is the row of the asked design,
    `own` the rows of the study that the components come from (none without one), `summary` lines
    of plain text.
    """

    components: VarianceComponents
    table: pd.DataFrame
    design: dict[str, float]
    own: tuple[Estimate, ...]
    summary: tuple[str, ...]


def run_power(
    study: Study | None, design: Design, *, experiment: str, parameters: Mapping[str, object]
) -> PowerResult:
    """Compute what a design can see, and log it as a run of kind `power`.

    Args:
        study: whose finished evaluate runs give the variance components; None: DEFAULT_COMPONENTS.
        design: the sizes asked for.
        experiment: that holds the study's runs; empty: the selected one.
        parameters: as the entry point got them, for `xling.command`.

    Returns:
        The result; its files are artifacts of the run.

    Raises:
        ValueError: there are no such runs, their records do not give the components, or a size is
            too small. Nothing is logged then.
    """
    components = DEFAULT_COMPONENTS
    own: tuple[Estimate, ...] = ()
    with TemporaryDirectory(prefix="xling-") as name:
        folder = Path(name)
        if study is not None:
            pulled = pull_records(
                tracking,
                study=study.name,
                experiment=experiment,
                folder=folder / "runs",
                cache=tracking.records_cache(),
            )
            components, own = study_components(pulled, study)
        result = power_of(components, design, own)
        write_power(result, design, folder / "power")
        with tracking.tracked_run(
            "power",
            name=f"power {study.name if study else 'of given variances'}",
            study=study.name if study else "",
            params={**asdict(design), "experiment": experiment, "components": components.source},
            tags={"command": tracking.run_command("power", parameters)},
        ):
            tracking.log_file(folder / "power")
            metrics = {key: result.design[key] for key in _REACH}
            tracking.log_metrics({k: value for k, value in metrics.items() if np.isfinite(value)})
    return result


def study_components(
    pulled: PulledRuns, study: Study
) -> tuple[VarianceComponents, tuple[Estimate, ...]]:
    """Estimate the variance components of a study's primary arm, and what it could see.

    Args:
        pulled: Its evaluate runs.
        study: Its languages say which family each belongs to.

    Returns:
        The components, and the rows of analysis.estimators.power.power_rows.

    Raises:
        ValueError: If the runs do not give the components; the message names the study.
    """
    family = {
        code: study.languages.family(code) for code in sorted(set(pulled.accuracies["language"]))
    }
    bases, developers = model_origins(study, pulled.runs)
    design = StudyDesign(
        family, left_out=study.languages.control_source, bases=bases, developers=developers
    )
    compared = compare_runs(pulled.records, pulled.accuracies, design)
    table, groups = compared.primary.table, compared.primary.groups
    try:
        judged = contrast_rows(table, groups, BOUND) + strength_rows(table, groups)
        return variance_components(table), tuple(power_rows(table, groups, judged))
    except ValueError as error:
        raise ValueError(
            f"study {study.name!r} gives no variance components: {error}; finish its runs "
            f"({'/'.join(PRIMARY)} and base, with records), or leave the study empty for given ones"
        ) from error


def power_of(
    components: VarianceComponents, design: Design, own: tuple[Estimate, ...] = ()
) -> PowerResult:
    """Compute what the asked design and its neighbours can see.

    Args:
        components: Variances in squared proportions.
        design: The sizes asked for.
        own: Rows of the study that the components come from, for the summary.

    Returns:
        The result; its table holds the asked sizes among the usual ones.

    Raises:
        ValueError: If a size is too small.
    """
    pair = (design.related, design.control)
    table = power_table(
        components,
        items=sorted({*_ITEMS, design.items}),
        languages=sorted({*_LANGUAGES, pair}, key=lambda sizes: (sum(sizes), sizes)),
        models=sorted({*_MODELS, design.models}),
        seeds=sorted({*_SEEDS, design.seeds}),
    )
    chosen = (table[list(asdict(design))] == list(asdict(design).values())).all(axis=1)
    row = {str(key): float(value) for key, value in table[chosen].iloc[0].items()}
    return PowerResult(
        components, table, row, own, tuple(_summary(components, table, row, own, design))
    )


def write_power(result: PowerResult, design: Design, folder: Path) -> None:
    """Write power.csv, power.tex, components.json, figures/power, and estimates.json of a study.

    Args:
        result: As power_of gives it.
        design: The sizes asked for.
        folder: Where the files go; made if need be.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    components = result.components
    caption = (
        "Minimal detectable effects (mde) and smallest provable equivalence bounds of D and I "
        "over languages with 80 % power, effects at the 5/3 % level, bounds at 5 %, in proportion; "
        f"variances: {components.source}"
    )
    write_table(result.table, folder / "power", caption=caption)
    text = json.dumps(asdict(components), indent=1, allow_nan=False)
    (folder / "components.json").write_text(text + "\n", encoding="utf-8")
    if result.own:
        write_estimates(result.own, folder / "estimates.json")
    curves = power_table(
        components,
        items=np.unique(np.geomspace(25, max(2000, design.items), 40).astype(int)).tolist(),
        languages=[(int(a), int(b)) for a, b in
                   result.table[["related", "control"]].drop_duplicates().to_numpy()],
        models=[design.models],
        seeds=[design.seeds],
    )  # fmt: skip
    figure = power_figure(
        curves,
        title=f"What {_count(design.models, 'model')} and {_count(design.seeds, 'seed')} can see",
        note=f"variances: {components.source}; effects at the 5/3 % level, bounds at 5 %, "
        "languages as the sampling unit",
        design=result.design,
    )
    save_figure(figure, folder / "figures" / "power")


def _summary(
    components: VarianceComponents,
    table: pd.DataFrame,
    row: Mapping[str, float],
    own: tuple[Estimate, ...],
    design: Design,
) -> list[str]:
    """Put the asked design into words, then a table of languages and items."""
    note = f" ({components.note})" if components.note else ""
    lines = [
        f"variance components: {components.source}{note}",
        f"{_count(design.models, 'model')}, {design.related} + {design.control} languages, "
        f"{_count(design.items, 'item')}, {_count(design.seeds, 'seed')}, 80 % power:",
        f"  D: an effect of {_points(row['mde_d'])} is found by languages; where there is "
        f"none, a bound of {_points(row['bound_d'])} is proved",
        f"  I: an effect of {_points(row['mde_i'])} is found by languages; where there is "
        f"none, a bound of {_points(row['bound_i'])} is proved"
        if np.isfinite(row["mde_i"])
        else "  I: needs two models",
    ]
    if own:
        lines.append("the study itself:")
        lines += [
            f"  {found.estimand} by {found.unit}: "
            + (_points(found.estimate) if found.status == OK and found.estimate else found.status)
            for found in own
        ]
    lines += ["", "effect found / bound proved, in points:"]
    lines.append(f"{'languages':>10} {'items':>6}   {'D':^13}   {'I':^13}")
    rows = table[(table["models"] == design.models) & (table["seeds"] == design.seeds)]
    for sizes in rows.to_dict("records"):
        cells = (
            f"{100 * sizes[mde]:5.1f} / {100 * sizes[bound]:5.1f}"
            if np.isfinite(sizes[mde])
            else f"{'–':^13}"
            for mde, bound in (_REACH[:2], _REACH[2:])
        )
        pair = f"{sizes['related']} + {sizes['control']}"
        lines.append(f"{pair:>10} {sizes['items']:>6}   {'   '.join(cells)}")
    return lines


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
