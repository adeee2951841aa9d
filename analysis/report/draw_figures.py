"""Every figure of an analysis, as SVG and PNG files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from analysis.estimates import OK
from analysis.figures.baseline import baseline_plot
from analysis.figures.before_after import answer_mass_plot, answer_mass_table
from analysis.figures.chain_of_thought import chain_of_thought_plot, chain_of_thought_table
from analysis.figures.distance import distance_plot
from analysis.figures.forest import forest_lines, forest_plot
from analysis.figures.headline import headline_lines, headline_plot
from analysis.figures.heatmap import gain_heatmap
from analysis.figures.language_names import top_family_names
from analysis.figures.style import figure_gains, save_figure
from analysis.figures.two_by_two import two_by_two_plot
from analysis.gains.comparisons import Comparison
from analysis.gains.gain_table import PRIMARY
from analysis.report.findings import Findings, StudyContext


def draw_figures(findings: Findings, context: StudyContext, folder: Path) -> list[Path]:
    """Draw gains, gain against baseline, D and I, distance, answer mass, chain-of-thought.

    Exhibits that have a figure are drawn beside them, under their own names.

    Args:
        findings: What the analysis found.
        context: Families, names, distances, bound and small print.
        folder: Where the files go.

    Returns:
        The files; a figure that would be empty is left out.

    Raises:
        OSError: If a file cannot be written.
    """
    study, compared, note = findings.study, findings.compared, context.note
    drawn: dict[str, Figure] = {}
    for condition, comparison in compared.by_condition.items():
        suffix = "" if condition == PRIMARY else "-" + "-".join(condition)
        figures = _comparison_figures(findings, context, comparison)
        drawn |= {name + suffix: figure for name, figure in figures.items()}
    if any(row.estimate is not None for row in forest_lines(findings.estimates)):
        title = f"{study}: D, B and I by estimator"
        drawn["contrasts"] = forest_plot(
            findings.estimates, title=title, bound=context.bound, note=note
        )
    if any(line.row.estimate is not None for line in headline_lines(findings.estimates)):
        drawn["headline"] = headline_plot(
            findings.estimates, title=f"{study}: D, B and I", bound=context.bound, note=note
        )
    primary = compared.primary
    if primary.table.status == OK and primary.groups.status == OK:
        drawn["family-by-baseline"] = two_by_two_plot(
            primary.table, primary.groups, title=f"{study}: gain by family and baseline", note=note
        )
    masses = answer_mass_table(findings.answered, context.family, PRIMARY)
    if not masses.empty:
        title = f"{study}: probability on the four answers"
        drawn["answer-mass"] = answer_mass_plot(masses, title=title, names=context.names, note=note)
    thought = chain_of_thought_table(findings.answered, compared.primary.by_model.languages)
    if not thought.empty:
        title = f"{study}: fine-tuning against chain-of-thought"
        drawn["chain-of-thought"] = chain_of_thought_plot(thought, title=title, note=note)
    for exhibit in findings.exhibits:
        if exhibit.draw is not None:
            title = f"{study}: {exhibit.heading}"
            drawn[exhibit.name] = exhibit.draw(title=title, note=note, narrow=False)
    return [path for name, figure in drawn.items() for path in save_figure(figure, folder / name)]


def _comparison_figures(
    findings: Findings, context: StudyContext, comparison: Comparison
) -> dict[str, Figure]:
    """Draw the figures of one comparison; none if there is no gain to draw."""
    condition = comparison.table.condition
    gains = figure_gains(findings.compared.cells, condition)
    if gains["gain"].isna().all():
        return {}
    arm, reasoning, scoring = condition
    how = "" if condition == PRIMARY else f" ({reasoning}, {scoring})"
    targets = gains.loc[gains["family"] != "source", ["model", "language"]]
    known = set(comparison.baseline.stack().index) if len(comparison.baseline) else set()
    whole = bool(known) and set(targets.itertuples(index=False, name=None)) <= known
    start, note = f"{findings.study}: gain of {arm} over base", context.note
    return {
        "gains": gain_heatmap(
            gains, distance=context.distance, names=context.names, note=note,
            title=f"{start} by model and language, in points{how}",
        ),
        "baseline": baseline_plot(
            gains, baseline=comparison.baseline if whole else None, note=note,
            slopes=findings.estimates if condition == PRIMARY else (),
            title=f"{start} against the base model's accuracy{how}",
        ),
        "distance": distance_plot(
            gains, distance=context.distance, names=context.names, note=note,
            top_families=top_family_names(context.family),
            title=f"{start} by distance from the source{how}",
        ),
    }  # fmt: skip
