"""What the report shows, made ready for its template: texts, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.estimates import OK
from analysis.exhibits.exhibit import Exhibit
from analysis.figures.baseline import baseline_plot
from analysis.figures.before_after import answer_mass_plot, answer_mass_table
from analysis.figures.chain_of_thought import chain_of_thought_plot, chain_of_thought_table
from analysis.figures.distance import distance_plot
from analysis.figures.forest import forest_lines, forest_plot
from analysis.figures.headline import headline_lines, headline_plot
from analysis.figures.inline import inline_svg
from analysis.figures.language_names import top_family_names
from analysis.figures.style import figure_gains
from analysis.figures.two_by_two import two_by_two_plot
from analysis.gains.cells import CONDITION
from analysis.gains.gain_table import PRIMARY
from analysis.report.findings import Findings, StudyContext


@dataclass(frozen=True)
class Section:
    """An exhibit made ready for the page."""

    exhibit: Exhibit
    picture: Picture | None


@dataclass(frozen=True)
class Picture:
    """A figure in two widths; each is an `<svg>` element whose texts are escaped."""

    wide: str
    narrow: str


def conditions_of(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the comparisons that have cells, the primary one first."""
    found = {tuple(map(str, row)) for row in cells[list(CONDITION)].drop_duplicates().to_numpy()}
    return sorted(found, key=lambda condition: (condition != PRIMARY, condition))


def pictures(findings: Findings, context: StudyContext) -> dict[str, Picture]:
    """Draw the figures that the data allow.

    Args:
        findings: What the analysis found.
        context: Families, names, distances and the bound.

    Returns:
        Some of `headline`, `square`, `forest`, `baseline`, `distance`, `thought`, `mass`, by name.
    """
    found: dict[str, Picture] = {}
    estimates, cells = findings.estimates, findings.compared.cells
    primary = findings.compared.primary
    if any(line.row.estimate is not None for line in headline_lines(estimates)):
        found["headline"] = _column(
            "headline",
            "D, B and I with the intervals that the sentences go by",
            partial(headline_plot, estimates, title="", bound=context.bound),
        )
    if primary.table.status == OK and primary.groups.status == OK:
        found["square"] = _column(
            "square",
            "Mean gains of related and control languages in weak and in strong models",
            partial(two_by_two_plot, primary.table, primary.groups, title=""),
        )
    if any(line.estimate is not None for line in forest_lines(estimates)):
        found["forest"] = _picture(
            "forest",
            "D and I with intervals, by estimator and sampling unit; the numbers are in the "
            "table of estimates",
            partial(forest_plot, estimates, title="", bound=context.bound),
        )
    condition = next(iter(conditions_of(cells)), PRIMARY)
    gains = figure_gains(cells, condition)
    if not gains["gain"].isna().all():
        baseline = whole_baseline(gains, findings.compared.primary.baseline)
        found["baseline"] = _picture(
            "baseline",
            "Gain against baseline accuracy, a point for each model and language",
            partial(baseline_plot, gains, title="", baseline=baseline, slopes=estimates),
        )
        found["distance"] = _picture(
            "distance",
            "Gain by language, from the source to the most distant language",
            partial(
                distance_plot,
                gains,
                title="",
                distance=context.distance,
                names=context.names,
                top_families=top_family_names(context.family),
            ),
        )
    return found if findings.answered.empty else found | _answer_pictures(findings, context)


def _answer_pictures(findings: Findings, context: StudyContext) -> dict[str, Picture]:
    """Draw chain-of-thought and answer mass, which need item records."""
    found: dict[str, Picture] = {}
    targets = [code for code, name in context.family.items() if name != "source"]
    thought = chain_of_thought_table(findings.answered, targets)
    if not thought.empty:
        found["thought"] = _picture(
            "thought",
            "Accuracy of each model: base, with chain-of-thought, and fine-tuned",
            partial(chain_of_thought_plot, thought, title=""),
        )
    condition = next(iter(conditions_of(findings.compared.cells)), PRIMARY)
    mass = answer_mass_table(findings.answered, context.family, condition)
    if not mass.empty:
        found["mass"] = _picture(
            "mass",
            "Answer mass by language, before and after fine-tuning",
            partial(answer_mass_plot, mass, title="", names=context.names),
        )
    return found


def sections(exhibits: Sequence[Exhibit]) -> list[Section]:
    """Draw exhibits in both widths, in their order."""
    return [
        Section(
            exhibit,
            None
            if exhibit.draw is None
            else _picture(exhibit.name, exhibit.label, partial(exhibit.draw, title="", note="")),
        )
        for exhibit in exhibits
    ]


def _picture(name: str, label: str, draw: Callable[..., Figure]) -> Picture:
    """Draw a figure in two widths; `draw` takes `narrow`."""
    wide, narrow = (
        inline_svg(draw(narrow=is_narrow), f"{name}-{'narrow' if is_narrow else 'wide'}", label)
        for is_narrow in (False, True)
    )
    return Picture(wide, narrow)


def _column(name: str, label: str, draw: Callable[..., Figure]) -> Picture:
    """Draw a figure that takes half of a wide page: its narrow form serves both widths."""
    svg = inline_svg(draw(narrow=True), f"{name}-narrow", label)
    return Picture(svg, svg)


def whole_baseline(gains: pd.DataFrame, baseline: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the training-split baseline if it is there in every target cell, else None.

    `gains` are as analysis.figures.style.figure_gains gives them; `baseline` has models by
    languages.
    """
    if baseline is None or baseline.empty:
        return None
    targets = gains[(gains["family"] != "source") & gains["gain"].notna()]
    table = baseline.reindex(
        index=sorted(targets["model"].unique()), columns=sorted(targets["language"].unique())
    )
    return None if targets.empty or table.isna().to_numpy().any() else baseline
