"""Writes the report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.estimates import Estimate
from analysis.estimators.chain_of_thought import AGREEMENT
from analysis.report.all_rows import cells_table, estimates_table
from analysis.report.content import Picture, conditions_of, pictures, sections
from analysis.report.findings import Findings, StudyContext
from analysis.report.heat import heat_table
from analysis.report.verdict import verdict_of
from analysis.tables.numbers import unsigned_points
from xling.files.atomic import atomic_write

_GROUPING = {
    "training split": "told apart by the base models' answers to training questions, from which no "
    "gain is computed",
    "other folds": "told apart in each fold by the base models' answers to the questions of the "
    "other folds, from which no gain of that fold is computed",
}
SAMPLING_UNITS = (
    (
        "languages",
        "to other languages of the same kinds, for these models and these questions; the primary "
        "unit, since the question is about families of languages",
    ),
    ("models", "to other models like these, for these languages and these questions"),
    (
        "languages and models",
        "to other models and other languages at once (crossed); the widest claim, and the widest "
        "interval",
    ),
    (
        "items",
        "to other questions and passages of this kind, for exactly these models and languages; "
        "the narrowest claim",
    ),
    (
        "cells",
        "to nothing in particular: the cells of one model or one language are not independent of "
        "each other, so this interval is too narrow",
    ),
)
"""Each sampling unit, and what its interval generalises to."""

REFERENCES = (
    ("Baayen, Davidson & Bates 2008", "crossed random effects of subjects and items"),
    ("Bell & McCaffrey 2002", "variances from leaving clusters out in turn"),
    ("Berger 1982", "a claim that two tests must both support: intersection-union"),
    ("Card et al. 2020", "power of comparisons in NLP"),
    ("Chiolero et al. 2013", "change against baseline"),
    ("Clark 1973", "language as a fixed effect is a fallacy: quasi-F over two samples"),
    ("Cochran 1954", "whether several means differ by more than chance"),
    ("Conley & Taber 2011", "inference with one treated cluster"),
    ("Fagerland, Lydersen & Laake 2013", "tests and intervals for paired binomial proportions"),
    ("Ferman & Pinto 2019", "one treated cluster of unequal size"),
    ("Fieller 1954", "intervals of ratios"),
    ("Fuller 1987", "slopes on a baseline of known noise"),
    ("Hartung & Knapp 2001", "intervals of random-effects means"),
    ("Lakens 2017", "equivalence by two one-sided tests"),
    ("Loftus 1978", "interactions that a change of scale removes"),
    ("MacKinnon, Nielsen & Webb 2023", "inference with few clusters"),
    ("Miller 2024", "error bars on model evaluations, clustered by passage"),
    ("Newcombe 1998", "interval of a difference of paired proportions"),
    ("Roberts & Winters 2013", "related languages are no independent cases (Galton)"),
    ("Simonsohn, Simmons & Nelson 2020", "specification curves"),
    ("Tu & Gilthorpe 2007", "change and baseline share a measurement"),
    ("Wagenmakers et al. 2012", "removable interactions, continued"),
    ("Zheng et al. 2024", "language models prefer some option positions"),
)
"""Works, and what is taken from each."""
_FOLDER = Path(__file__).resolve().parent


def write_report(path: Path, findings: Findings, context: StudyContext) -> Path:
    """Write the report of an analysis, whole or not at all.

    Args:
        path: The HTML file; its folder is made if need be.
        findings: What the analysis found.
        context: How the study is to be read.

    Returns:
        The path. Every text of the caller's is escaped, and the page loads nothing.

    Raises:
        ValueError: If the bound is not above 0.
        OSError: If the file cannot be written; an older file stays as it was.
    """
    page = _environment().get_template("report.html.j2")
    with atomic_write(path) as temporary:
        temporary.write_text(page.render(_page_values(findings, context)), encoding="utf-8")
    return path


def _page_values(findings: Findings, context: StudyContext) -> dict[str, object]:
    """Collect what the template shows."""
    estimates, cells = findings.estimates, findings.compared.cells
    conditions = conditions_of(cells)
    drawn = pictures(findings, context)
    js = _own_text("report.js")
    return {
        "study": findings.study,
        "description": context.description,
        "note": context.note,
        "verdict": verdict_of(estimates, context),
        "heats": [heat_table(cells, of, context.names, context.distance) for of in conditions],
        "pictures": {name: _as_markup(picture) for name, picture in drawn.items()},
        "sections": [
            (section.exhibit, section.picture and _as_markup(section.picture))
            for section in sections(findings.exhibits)
        ],
        "has_slopes": any(
            row.estimand.startswith("slope ") and row.estimate is not None for row in estimates
        ),
        "has_reasoning": any(row.estimand == AGREEMENT for row in estimates),
        "bound": unsigned_points(context.bound),
        "grouping_source": grouping_source(estimates),
        "estimates": estimates_table(estimates),
        "cells": cells_table(cells, context.names),
        "units": SAMPLING_UNITS,
        "references": REFERENCES,
        "notes": findings.notes,
        "runs": context.sources,
        "analysis_command": context.command,
        "css": _own_text("report.css"),
        "js": js,
        "policy": content_policy(js),
        "safe_link": safe_link,
    }


def grouping_source(estimates: Sequence[Estimate]) -> str:
    """Say by which answers weak and strong models are told apart, as the rows of I have it."""
    sources = (row.baseline_source for row in estimates if row.estimand == "I")
    return next(
        (_GROUPING[source] for source in sources if source in _GROUPING),
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


def _as_markup(picture: Picture) -> dict[str, Markup]:
    """Put both widths into markup: inline_svg has escaped every text in them."""
    return {"wide": Markup(picture.wide), "narrow": Markup(picture.narrow)}


def _own_text(name: str) -> Markup:
    """Read a style sheet or script of this package, to be put into the page as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def content_policy(script: str) -> str:
    """Say what the page may load and run: its own styles, and its own script by hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def safe_link(url: str) -> str:
    """Return an address if it is http or https, else nothing: a link could run a script."""
    return url if re.match(r"https?://", url) else ""
