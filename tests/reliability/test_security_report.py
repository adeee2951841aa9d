"""A report of runs whose names, description, commands and notes are hostile, in a real browser."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from analysis.analyze_run import run_analysis
from analysis.report.render import content_policy
from analysis.runs.pull import newest_runs
from analysis.simulation.answers import run_records, simulate_correct
from analysis.simulation.design import Design
from analysis.simulation.log_run import simulated_study
from analysis.tables.write import write_table
from tests.place import make_store
from xling import tracking
from xling.tracking.evaluations import log_evaluation

pytestmark = pytest.mark.slow

PWNED = "document.title='PWNED'"
# As model names: in tables, figures, tips, notes and sentences.
MODELS = (
    f"<script>{PWNED}</script>",
    f'"><svg onload={PWNED}>',
    f"'><img src=x onerror={PWNED}>]]>",
    f'=HYPERLINK("http://x","{{{{7191*7}}}}")</style></title><script>{PWNED}</script>',
    f"@SUM(1)$\\frac{{x}}$<iframe srcdoc='<script>parent.{PWNED}</script>'>",
    f"javascript:{PWNED}//<a href=javascript:{PWNED}>%s{{% raw %}}\\input{{/etc/passwd}}",
)
ELSEWHERE = (
    f"--><script>{PWNED}</script><!--",
    f"</pre></code></main></script><script>{PWNED}</script>",
    f"<base href=http://x/><meta http-equiv=refresh content='0;url=javascript:{PWNED}'>",
    f"<body onload={PWNED}><details open ontoggle={PWNED}>&lt;script&gt;{{{{7191*7}}}}",
)
URL_ATTRIBUTES = ("href", "src", "srcdoc", "action", "formaction", "data", "xlink:href")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=3000", "--dump-dom",
)  # fmt: skip

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The artifacts of an analysis of hostile runs, from a real store."""
    folder = tmp_path_factory.mktemp("hostile")
    uri = make_store(folder / "store.db")
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    client.create_experiment("hostile", artifact_location=str(folder / "artifacts"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_EXPERIMENT_NAME", "hostile")
    patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    tracking.open_store()
    log_hostile_runs()
    design = small_design()
    study = simulated_study(design, 0, "hostile").model_copy(
        update={"description": " ".join(ELSEWHERE)}
    )
    run_analysis(study, bound=0.05, parameters={"study": f"hostile {ELSEWHERE[1]}"})
    (run,) = client.search_runs(["1"], "tags.`xling.kind` = 'analyze'")
    yield Path(client.download_artifacts(run.info.run_id, "", str(folder)))
    mlflow.set_tracking_uri(None)
    patch.undo()


def small_design() -> Design:
    return Design(models=len(MODELS), items=12, training_items=8, cot=True, arms=("finetuned",))


def log_hostile_runs() -> None:
    design = small_design()
    named = dict(zip(design.model_names, MODELS, strict=True))
    answers = simulate_correct(design, np.random.default_rng(0))
    runs = list(run_records(answers, design))
    for (model, arm, seed, reasoning, scoring), records in [*runs, runs[0]]:
        params = {"model": named[model], "arm": arm, "seed": seed}
        log_evaluation(
            study="hostile",
            name=" ".join(ELSEWHERE),  # shown with the run, and in the note on the one seen twice
            params=params | {"reasoning": reasoning, "scoring": scoring},
            tags={"command": f"mlflow run . -P x={ELSEWHERE[1]}"},
            families=design.families,
            records=records.assign(model=named[model]),
        )


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_attributes(tags: list[tuple[str, dict[str, str | None]]]) -> None:
    for tag, attributes in tags:
        for name, value in attributes.items():
            assert not name.lower().startswith("on"), (tag, name)
            if name.lower() in URL_ATTRIBUTES:
                assert re.match(r"#|https?://|data:image/png;base64,", value or ""), (
                    tag,
                    name,
                    value,
                )


def test_the_report_has_no_tags_but_its_own(analysed: Path) -> None:
    page = Page((analysed / "report.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == tags.count("style") == tags.count("h1") == 1
    assert not {"iframe", "img", "base", "object", "embed", "form"} & set(tags)
    assert not [attrs for tag, attrs in page.tags if tag == "meta" and "refresh" in str(attrs)]
    check_attributes(page.tags)
    text = " ".join(page.words)
    for hostile in (*MODELS, *ELSEWHERE):
        assert hostile in text  # shown as it is
    assert "50337" not in text  # no template within a template


def test_figures_are_drawings_alone(analysed: Path) -> None:
    figures = sorted((analysed / "figures").glob("*.svg"))
    assert len(figures) > 3
    for path in figures:
        elements = list(ET.parse(path).iter())
        tags = {element.tag.rpartition("}")[2] for element in elements}
        wrong = {"script", "foreignObject", "iframe", "a", "animate", "set"} & tags
        assert not wrong, path.name
        check_attributes(
            [
                (element.tag, {key.rpartition("}")[2]: value for key, value in element.items()})
                for element in elements
                if "purl.org" not in element.tag and "creativecommons" not in element.tag
                and "rdf-syntax" not in element.tag
            ]
        )  # fmt: skip


def test_no_cell_of_a_table_is_a_formula(analysed: Path) -> None:
    paths = sorted(analysed.glob("*.csv"))
    assert len(paths) > 2
    seen = 0
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                for cell in row:
                    assert not re.match(r"\s*[=@|\t\r]|\s*[-+](?![\d.])", cell), (path.name, cell)
                    seen += cell.startswith(("'=", "'@"))
    assert seen > 10


def test_latex_tables_hold_no_command_of_a_name(analysed: Path) -> None:
    own = {"begin", "end", "caption", "label", "toprule", "midrule", "bottomrule", "endhead"}
    own |= {"endfirsthead", "endfoot", "endlastfoot", "multicolumn"}
    own |= {"textbackslash", "textasciitilde", "textasciicircum"}
    paths = sorted(analysed.glob("*.tex"))
    assert len(paths) > 2
    for path in paths:
        text = path.read_text(encoding="utf-8").replace("\\\\", "")
        assert set(re.findall(r"\\([A-Za-z]+)", text)) <= own
        # A sign that LaTeX reads as more than itself has a backslash before it.
        assert not re.search(r"(?<!\\)[$%#]", text)


def test_names_of_every_kind_come_through_the_tables(tmp_path: Path) -> None:
    names = ["=1+1", "+x", "-x", "@x", "\tx", " =x", "|x", "+1+cmd|' /C calc'!A0", "plain", "-3.5"]
    table = pd.DataFrame({"model": names, "gain": [-0.5] * len(names), "=column": "+8.2"})
    csv_path, tex_path = write_table(table, tmp_path / "t", caption="=a\n\n\\b")
    found = pd.read_csv(csv_path, keep_default_na=False)
    assert list(found["model"]) == [
        f"'{name}" if name not in ("plain", "-3.5") else name for name in names
    ]
    assert list(found.columns) == ["model", "gain", "'=column"]
    assert set(found["gain"]) == {-0.5} and set(found["'=column"]) == {8.2}
    assert "\n\n" not in tex_path.read_text()


def in_browser(path: Path, folder: Path) -> str:
    """The page as it stands after its scripts ran."""
    done = subprocess.run(
        [CHROMIUM or "", *FLAGS, f"--user-data-dir={folder}", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip()
    return done.stdout


@needs_browser
def test_nothing_runs_in_a_browser_but_the_report_s_own_script(
    analysed: Path, tmp_path: Path
) -> None:
    text = (analysed / "report.html").read_text(encoding="utf-8")
    dom = in_browser(analysed / "report.html", tmp_path / "profile")
    assert "<title>hostile: what" in dom and "<title>PWNED" not in dom
    assert 'class="filter"' in dom  # its own script did run
    # Were a name not escaped, the page's policy would still stop it.
    planted = tmp_path / "planted.html"
    script = f"<script>{PWNED}</script><img src=x onerror={PWNED}>"
    planted.write_text(text.replace("</main>", f"{script}</main>"), encoding="utf-8")
    dom = in_browser(planted, tmp_path / "profile")
    assert "<title>PWNED" not in dom and 'class="filter"' in dom
    # And this is how it looks where it does run.
    open_page = tmp_path / "open.html"
    unguarded = re.sub(r"<meta http-equiv=.*?>", "", planted.read_text(encoding="utf-8"))
    open_page.write_text(unguarded, encoding="utf-8")
    assert "<title>PWNED" in in_browser(open_page, tmp_path / "profile")


@needs_browser
def test_no_figure_runs_anything_in_a_browser(analysed: Path, tmp_path: Path) -> None:
    """All of them in one page, as elements and as documents."""
    figures = sorted((analysed / "figures").glob("*.svg"))
    parts = [re.sub(r"(?s)^.*?<svg", "<svg", path.read_text(encoding="utf-8")) for path in figures]
    frames = [f"<iframe src='{path.as_uri()}'></iframe>" for path in figures]
    page = tmp_path / "figures.html"
    page.write_text(f"<title>fine</title>{''.join(parts + frames)}", encoding="utf-8")
    dom = in_browser(page, tmp_path / "profile")
    assert "<title>fine</title>" in dom and "PWNED</title>" not in dom


def test_the_policy_lets_one_script_run() -> None:
    assert content_policy("a") != content_policy("b")
    assert "'unsafe-inline'" not in content_policy("a").partition("script-src")[2]


def test_a_name_that_is_no_line_of_text_is_refused(tmp_path: Path) -> None:
    for name in ("a\nb", "a\0b", "a\x08b", "x" * 501, "\u202eabc"):
        run = tracking.LoggedRun(
            run_id="a", name="n", metrics={"accuracy/fra_Latn": 0.5}, tags={}, start_time=0,
            status="FINISHED",
            params={
                "cfg.model": name, "cfg.arm": "base", "cfg.seed": "0", "cfg.reasoning": "direct",
                "cfg.scoring": "answer-token",
            },
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"cfg\.model is .*; it must be one line"):
            newest_runs([run])
