"""Tables of an analysis as CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

# What a language table shows of each model, and its heading.
_LANGUAGE_COLUMNS = {"accuracy_base": "base", "accuracy": "tuned", "gain": "gain"}
_FORMULA = re.compile(r"\s*[=+\-@|\t\r]")
# Numbers with their signs, as tables show them: +8.2, or +3.1 to +13.3.
_NUMBERS = re.compile(r"[-+\d.,%\s()–e]*(?:to [-+\d.,%\s()–e]*)?")
_HIDDEN_IN_LATEX = ("reasoning", "scoring", "n_passages", "n_gained", "n_lost")


def language_table(
    cells: pd.DataFrame, condition: tuple[str, ...], names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Average accuracy before and after, and gain, over the seeds of each model and language.

    Args:
        cells: As analysis.gains.cells.gain_cells gives them.
        condition: Arm, reasoning and scoring.
        names: Language code to English name.

    Returns:
        Columns model, family, language, name, base, tuned, gain (proportions; NaN where a seed
        has no number), sorted by model, then source, related, control.
    """
    rows = cells[(cells[["arm", "reasoning", "scoring"]] == list(condition)).all(axis=1)]
    means = rows.groupby(["model", "family", "language"])[list(_LANGUAGE_COLUMNS)].mean(
        skipna=False
    )
    table = means.rename(columns=_LANGUAGE_COLUMNS).reset_index()
    table.insert(3, "name", [(names or {}).get(code, "") for code in table["language"]])
    rank = table["family"].map({"source": 0, "related": 1, "control": 2})
    return (
        table.assign(rank=rank)
        .sort_values(["model", "rank", "language"], ignore_index=True)
        .drop(columns=["rank"])
    )


def write_table(table: pd.DataFrame, stem: Path, *, caption: str) -> list[Path]:
    """Write a table as CSV (everything, full precision) and as LaTeX (for a paper).

    A text that a spreadsheet would take for a formula gets an apostrophe before it in the CSV.
    The LaTeX form needs the package booktabs; it rounds to three decimals, escapes what LaTeX
    would read as a command, and leaves out the columns that a paper's table has no room for.

    Args:
        table: What to write; the index is left out.
        stem: The path without its ending; the folder is made if need be.
        caption: What the table shows.

    Returns:
        The paths of the CSV and the LaTeX file.

    Raises:
        OSError: If a file cannot be written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "tex")]
    table.rename(columns=_no_formula).map(_no_formula).to_csv(paths[0], index=False)
    visible = table.drop(columns=[name for name in _HIDDEN_IN_LATEX if name in table.columns])
    visible = visible.rename(columns=_one_line).map(_one_line)
    styled = visible.style.hide(axis="index").format(precision=3, na_rep="--", escape="latex")
    styled = styled.format_index(escape="latex", axis=1)
    text = styled.to_latex(
        hrules=True,
        environment="longtable",
        caption=_escaped(_one_line(caption)),
        label=f"tab:{stem.name}",
    )
    paths[1].write_text(text, encoding="utf-8")
    return paths


def _no_formula(value: Any) -> Any:
    """Mark a text so that no spreadsheet computes it; anything else as it is."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBERS.fullmatch(value):
        return f"'{value}"
    return value


def _one_line(value: Any) -> Any:
    """Take out line breaks, which end a paragraph in LaTeX; leave anything else as it is."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _escaped(text: str) -> str:
    """Escape text so that LaTeX prints it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
