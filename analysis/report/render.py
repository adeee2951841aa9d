"""Writes the report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.estimates import Estimate
from analysis.exhibits.exhibit import Exhibit
from analysis.gains.gain_table import PRIMARY
from analysis.report.all_rows import cells_table, estimates_table
from analysis.report.content import Picture, RunSource, conditions_of, pictures, sections
from analysis.report.heat import heat_table
from analysis.report.references import REFERENCES, SAMPLING_UNITS
from analysis.report.verdict import verdict
from analysis.tables.numbers import unsigned_points

_TOLD_APART = {
    "training split": "told apart by the base models' answers to training questions, from which no "
    "gain is computed",
    "other folds": "told apart in each fold by the base models' answers to the questions of the "
    "other folds, from which no gain of that fold is computed",
}
_FOLDER = Path(__file__).resolve().parent


def write_report(
    path: Path,
    *,
    study: str,
    description: str,
    estimates: Sequence[Estimate],
    cells: pd.DataFrame,
    family: Mapping[str, str],
    names: Mapping[str, str],
    distance: Mapping[str, int] | None,
    bound: float,
    records_summary: pd.DataFrame,
    runs: Sequence[RunSource],
    notes: Sequence[str],
    analysis_command: str,
    note: str = "",
    baseline: pd.DataFrame | None = None,
    exhibits: Sequence[Exhibit] = (),
) -> Path:
    """Write the report of an analysis, whole or not at all.

    Args:
        path: The HTML file; its folder is made if need be.
        study: The study's name.
        description: What the study asks; may be empty.
        estimates: All rows of the analysis.
        cells: As analysis.gains.cells.gain_cells gives them.
        family: Language code to `related`, `control` or `source`.
        names: Language code to English name.
        distance: Language code to branches away from the source, or None.
        bound: Equivalence bound of D in proportion, above 0.
        records_summary: Columns model, language, arm, reasoning, scoring, seed, accuracy,
            answer_mass, position_entropy; may be empty.
        runs: The evaluate runs behind it.
        notes: What a reader should know of the runs.
        analysis_command: What repeats the analysis.
        note: Small print such as that of the mini set.
        baseline: Training-split accuracy, models by languages (proportions), or None.
        exhibits: Sections of the arms and instruments that there are.

    Returns:
        The path. Every text of the caller's is escaped, and the page loads nothing.

    Raises:
        ValueError: If the bound is not above 0.
        OSError: If the file cannot be written; an older file stays as it was.
    """
    drawn = pictures(
        estimates=estimates,
        cells=cells,
        family=family,
        names=names,
        distance=distance,
        bound=bound,
        summary=records_summary,
        baseline=baseline,
    )
    conditions = conditions_of(cells)
    js = _own_text("report.js")
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            study=study,
            description=description,
            note=note,
            verdict=verdict(estimates, bound),
            heats=[heat_table(cells, condition, names, distance) for condition in conditions],
            pictures={name: _marked(picture) for name, picture in drawn.items()},
            sections=[
                (section.exhibit, section.picture and _marked(section.picture))
                for section in sections(exhibits)
            ],
            has_slopes=any(
                r.estimand.startswith("slope ") and r.estimate is not None for r in estimates
            ),
            bound=unsigned_points(bound),
            told_apart=grouping_source(estimates),
            estimates=estimates_table(estimates),
            cells=cells_table(cells, names),
            units=SAMPLING_UNITS,
            references=REFERENCES,
            notes=notes,
            runs=runs,
            analysis_command=analysis_command,
            primary=", ".join(conditions[0] if conditions else PRIMARY),
            css=_own_text("report.css"),
            js=js,
            policy=content_policy(js),
            safe_link=safe_link,
        )
    )
    _write_whole(text, path)
    return path


def grouping_source(estimates: Sequence[Estimate]) -> str:
    """By which answers weak and strong models are told apart.

    Args:
        estimates: All rows of the analysis; those of I say it.
    """
    sources = (row.baseline_source for row in estimates if row.estimand == "I")
    return next(
        (_TOLD_APART[source] for source in sources if source in _TOLD_APART),
        "told apart by base models' answers from which no gain is computed; this study has none",
    )


def _environment() -> Environment:
    return Environment(
        autoescape=True,
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _marked(picture: Picture) -> dict[str, Markup]:
    """Both widths as markup: inline_svg has escaped every text in them."""
    return {"wide": Markup(picture.wide), "narrow": Markup(picture.narrow)}


def _own_text(name: str) -> Markup:
    """A style sheet or script of this package, to be put into the page as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def content_policy(script: str) -> str:
    """What the page may load and run: its own styles, and its own script by hash.

    Args:
        script: The script's exact text.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def safe_link(url: str) -> str:
    """An address that a link may lead to.

    Args:
        url: Any text.

    Returns:
        The address if it is http or https, else nothing: a link could run a script otherwise.
    """
    return url if re.match(r"https?://", url) else ""


def _write_whole(text: str, path: Path) -> None:
    """Write beside the target, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
