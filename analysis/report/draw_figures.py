"""Every figure of an analysis, as SVG and PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.estimates import Estimate
from analysis.exhibits.exhibit import Exhibit
from analysis.figures.answer_mass import answer_mass_plot, answer_mass_table
from analysis.figures.baseline import baseline_plot
from analysis.figures.chain_of_thought import chain_of_thought_plot, chain_of_thought_table
from analysis.figures.distance import distance_plot
from analysis.figures.forest import forest_lines, forest_plot
from analysis.figures.heatmap import gain_heatmap
from analysis.figures.style import figure_gains, save_figure
from analysis.gains.comparisons import Comparison, Comparisons
from analysis.gains.gain_table import PRIMARY


def draw_study(
    study: str,
    compared: Comparisons,
    estimates: Sequence[Estimate],
    summary: pd.DataFrame,
    folder: Path,
    *,
    family: Mapping[str, str],
    names: Mapping[str, str],
    distance: Mapping[str, int] | None,
    bound: float,
    note: str = "",
    exhibits: Sequence[Exhibit] = (),
) -> list[Path]:
    """Draw gains, gain against baseline, D and I, distance, answer mass, chain-of-thought.

    Exhibits that have a figure are drawn beside them, under their own names.

    Args:
        study: Its name, for titles.
        compared: Gains by cell and comparison.
        estimates: All rows.
        summary: As analysis.measures.accuracy.responses_summary gives it.
        folder: Where the files go.
        family: Language code to `related`, `control` or `source`.
        names: Language code to English name.
        distance: Language code to branches away from the source, or None.
        bound: Equivalence bound in proportion.
        note: Small print.
        exhibits: Of the arms and instruments that there are.

    Returns:
        The files; a figure that would be empty is left out.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn: dict[str, Figure] = {}
    for condition, comparison in compared.by_condition.items():
        suffix = "" if condition == PRIMARY else "-" + "-".join(condition)
        for name, figure in _comparison_figures(
            study,
            compared.cells,
            comparison,
            slopes=estimates if condition == PRIMARY else (),
            names=names,
            distance=distance,
            note=note,
        ).items():
            drawn[name + suffix] = figure
    if any(row.estimate is not None for row in forest_lines(estimates)):
        drawn["contrasts"] = forest_plot(
            estimates, title=f"{study}: D and I by estimator", bound=bound, note=note
        )
    masses = answer_mass_table(summary, family, PRIMARY)
    if not masses.empty:
        drawn["answer-mass"] = answer_mass_plot(
            masses, title=f"{study}: probability on the four answers", names=names, note=note
        )
    thought = chain_of_thought_table(summary, compared.primary.table.languages)
    if not thought.empty:
        drawn["chain-of-thought"] = chain_of_thought_plot(
            thought, title=f"{study}: fine-tuning against chain-of-thought", note=note
        )
    for exhibit in exhibits:
        if exhibit.draw is not None:
            title = f"{study}: {exhibit.heading}"
            drawn[exhibit.name] = exhibit.draw(title=title, note=note, narrow=False)
    return [path for name, figure in drawn.items() for path in save_figure(figure, folder / name)]


def _comparison_figures(
    study: str,
    cells: pd.DataFrame,
    comparison: Comparison,
    *,
    slopes: Sequence[Estimate],
    names: Mapping[str, str],
    distance: Mapping[str, int] | None,
    note: str,
) -> dict[str, Figure]:
    """Figures of one comparison; none if there is no gain to draw."""
    condition = comparison.table.condition
    gains = figure_gains(cells, condition)
    if gains["gain"].isna().all():
        return {}
    arm, reasoning, scoring = condition
    how = "" if condition == PRIMARY else f" ({reasoning}, {scoring})"
    targets = gains.loc[gains["family"] != "source", ["model", "language"]]
    known = set(comparison.training.stack().index) if len(comparison.training) else set()
    whole = bool(known) and set(targets.itertuples(index=False, name=None)) <= known
    return {
        "gains": gain_heatmap(
            gains, distance=distance, names=names, note=note,
            title=f"{study}: gain of {arm} over base by model and language, in points{how}",
        ),
        "baseline": baseline_plot(
            gains, baseline=comparison.training if whole else None, slopes=slopes, note=note,
            title=f"{study}: gain of {arm} over base against the base model's accuracy{how}",
        ),
        "distance": distance_plot(
            gains, distance=distance, names=names, note=note,
            title=f"{study}: gain of {arm} over base by distance from the source{how}",
        ),
    }  # fmt: skip
