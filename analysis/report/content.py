"""What the report shows, made ready for its template: texts, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.estimates import Estimate
from analysis.figures.answer_mass import answer_mass_plot, answer_mass_table
from analysis.figures.baseline import baseline_plot
from analysis.figures.chain_of_thought import chain_of_thought_plot, chain_of_thought_table
from analysis.figures.distance import distance_plot
from analysis.figures.forest import forest_lines, forest_plot
from analysis.figures.inline import inline_svg
from analysis.figures.style import figure_gains
from analysis.gains.cells import CONDITION
from analysis.gains.gain_table import PRIMARY
from analysis.report.numbers import interval, on_scale, p_value, points, units_of


@dataclass(frozen=True)
class RunSource:
    """One evaluate run behind a report: what it is, the digest of its data, how to repeat it."""

    run_id: str
    name: str
    model: str
    arm: str
    seed: int
    reasoning: str
    scoring: str
    data_digest: str
    command: str
    url: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure in two widths; each is an `<svg>` element whose texts are escaped."""

    wide: str
    narrow: str


@dataclass(frozen=True)
class Field:
    """One field of a table: its text, and what to sort by where that is another value."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table: column names, which of them are numbers, and rows of fields."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Field, ...], ...]


_ESTIMATE_COLUMNS = (
    ("estimand", False), ("scale", False), ("estimator", False), ("unit", False),
    ("estimate", True), ("interval", True), ("se", True), ("df", True), ("p", True),
    ("Holm's p", True), ("models", True), ("related + control", True), ("items", True),
    ("seeds", True), ("baseline", False), ("status and note", False),
)  # fmt: skip
_CELL_COLUMNS = (
    ("model", False), ("arm", False), ("seed", True), ("language", False), ("family", False),
    ("items", True), ("before %", True), ("after %", True), ("gain, points", True),
    ("95 % interval", True), ("gained", True), ("lost", True), ("McNemar p", True),
    ("BH p", True), ("status", False),
)  # fmt: skip


def estimates_table(estimates: Sequence[Estimate]) -> Table:
    """All estimates, points as points.

    Args:
        estimates: The rows, in the order to be shown.
    """
    return _table(_ESTIMATE_COLUMNS, [_estimate_fields(row) for row in estimates])


def _estimate_fields(row: Estimate) -> tuple[Field, ...]:
    level = " (90 %)" if row.estimator == "tost" and interval(row) else ""

    def number(value: float | None, text: str) -> Field:
        return Field("" if value is None else text, "" if value is None else value)

    said = "; ".join(filter(None, [row.status, row.note]))
    return (
        Field(row.estimand),
        Field(row.scale),
        Field(row.estimator.replace("_", " ")),
        Field(row.unit),
        number(row.estimate, on_scale(row.estimate or 0.0, units_of(row))),
        number(row.ci_low, f"{interval(row)}{level}"),
        number(row.se, on_scale(row.se or 0.0, units_of(row)).lstrip("+")),
        number(row.df, f"{row.df or 0:.3g}"),
        number(row.p, p_value(row.p)),
        number(row.p_holm, p_value(row.p_holm)),
        Field(str(row.n_models), row.n_models),
        Field(f"{row.n_related} + {row.n_control}", row.n_related),
        number(row.n_items, str(row.n_items)),
        Field(str(row.n_seeds), row.n_seeds),
        Field(row.baseline_source),
        Field(said),
    )


def cells_table(cells: pd.DataFrame, names: Mapping[str, str]) -> Table:
    """Every cell, accuracies in per cent and gains in points.

    Args:
        cells: As analysis.gains.cells.gain_cells gives them.
        names: Language code to English name.
    """
    rows = []
    for cell in cells.to_dict("records"):
        arm = [str(cell[name]) for name in CONDITION]
        code = str(cell["language"])
        known = names.get(code)
        low, high = cell["ci_low"], cell["ci_high"]
        rows.append(
            (
                Field(str(cell["model"])),
                Field(arm[0] if tuple(arm[1:]) == PRIMARY[1:] else ", ".join(arm)),
                Field(str(cell["seed"]), cell["seed"]),
                Field(f"{known} ({code})" if known else code),
                Field(str(cell["family"])),
                _number(cell["n_items"], "{:.0f}"),
                _number(100 * cell["accuracy_base"], "{:.1f}"),
                _number(100 * cell["accuracy"], "{:.1f}"),
                _signed(cell["gain"]),
                Field(f"{points(low)} to {points(high)}", low) if pd.notna(low) else Field("", ""),
                _number(cell["n_gained"], "{:.0f}"),
                _number(cell["n_lost"], "{:.0f}"),
                _p(cell["p"]),
                _p(cell["p_bh"]),
                Field(str(cell["status"])),
            )
        )
    return _table(_CELL_COLUMNS, rows)


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[tuple[Field, ...]]) -> Table:
    return Table(tuple(c[0] for c in columns), tuple(c[1] for c in columns), tuple(rows))


def _number(value: float, form: str) -> Field:
    return Field(form.format(value), float(value)) if pd.notna(value) else Field("", "")


def _signed(value: float) -> Field:
    return Field(points(value), float(value)) if pd.notna(value) else Field("", "")


def _p(value: float) -> Field:
    return Field(p_value(float(value)), float(value)) if pd.notna(value) else Field("", "")


def conditions_of(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """The comparisons that have cells, the primary one first.

    Args:
        cells: As analysis.gains.cells.gain_cells gives them.
    """
    found = {tuple(map(str, row)) for row in cells[list(CONDITION)].drop_duplicates().to_numpy()}
    return sorted(found, key=lambda condition: (condition != PRIMARY, condition))


def pictures(
    *,
    estimates: Sequence[Estimate],
    cells: pd.DataFrame,
    family: Mapping[str, str],
    names: Mapping[str, str],
    distance: Mapping[str, int] | None,
    bound: float,
    summary: pd.DataFrame,
    baseline: pd.DataFrame | None,
) -> dict[str, Picture]:
    """The figures that the data allow, by name.

    Args:
        estimates: All rows.
        cells: Gains by cell.
        family: Language code to `related`, `control` or `source`.
        names: Language code to English name.
        distance: Language code to branches away from the source, or None.
        bound: Equivalence bound in proportion.
        summary: Accuracy and answer mass by run and language; may be empty.
        baseline: Training-split accuracy, models by languages, or None.

    Returns:
        Some of `forest`, `baseline`, `distance`, `thought`, `mass`.
    """
    found: dict[str, Picture] = {}

    def add(name: str, label: str, draw: Callable[[bool], Figure]) -> None:
        wide, narrow = (
            inline_svg(draw(is_narrow), f"{name}-{'narrow' if is_narrow else 'wide'}", label)
            for is_narrow in (False, True)
        )
        found[name] = Picture(wide, narrow)

    if any(line.estimate is not None for line in forest_lines(estimates)):
        add(
            "forest",
            "D and I with intervals, by estimator and sampling unit; the numbers are in the "
            "table of estimates",
            lambda narrow: forest_plot(estimates, title="", bound=bound, narrow=narrow),
        )
    condition = next(iter(conditions_of(cells)), PRIMARY)
    gains = figure_gains(cells, condition)
    if not gains["gain"].isna().all():
        known = whole_baseline(gains, baseline)
        add(
            "baseline",
            "Gain against baseline accuracy, a point for each model and language",
            lambda narrow: baseline_plot(
                gains, title="", baseline=known, slopes=estimates, narrow=narrow
            ),
        )
        add(
            "distance",
            "Gain by language, from the source to the most distant language",
            lambda narrow: distance_plot(
                gains, title="", distance=distance, names=names, narrow=narrow
            ),
        )
    if not summary.empty:
        targets = [code for code, name in family.items() if name != "source"]
        thought = chain_of_thought_table(summary, targets)
        if not thought.empty:
            add(
                "thought",
                "Accuracy of each model: base, with chain-of-thought, and fine-tuned",
                lambda narrow: chain_of_thought_plot(thought, title="", narrow=narrow),
            )
        mass = answer_mass_table(summary, family, condition)
        if not mass.empty:
            add(
                "mass",
                "Answer mass by language, before and after fine-tuning",
                lambda narrow: answer_mass_plot(mass, title="", names=names, narrow=narrow),
            )
    return found


def whole_baseline(gains: pd.DataFrame, baseline: pd.DataFrame | None) -> pd.DataFrame | None:
    """The training-split baseline if every model has it in every target language, else None.

    Args:
        gains: As analysis.figures.style.figure_gains gives them.
        baseline: Training-split accuracy, models by languages, or None.
    """
    if baseline is None or baseline.empty:
        return None
    targets = gains[(gains["family"] != "source") & gains["gain"].notna()]
    table = baseline.reindex(
        index=sorted(targets["model"].unique()), columns=sorted(targets["language"].unique())
    )
    return None if targets.empty or table.isna().to_numpy().any() else baseline
