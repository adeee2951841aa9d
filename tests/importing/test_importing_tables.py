"""Tables of published accuracies: what is read, and how each mistake is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from xling.importing import read_results, read_table

GOOD = """\
model,arm,language,accuracy,n_items
gpt-x,base,heb_Hebr,0.53,100
gpt-x,base,fra_Latn,0.61,100
gpt-x,finetuned,heb_Hebr,0.57,
gpt-x,finetuned,fra_Latn,0.6,100
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "published.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def row(values: str, header: str = "model,arm,language,accuracy") -> str:
    return f"{header}\n{values}\n"


def test_a_table_makes_one_run_for_each_model_and_arm(tmp_path: Path) -> None:
    results = read_table(write(tmp_path, GOOD), seed=3, reasoning="cot")
    assert [(run.model, run.arm, run.seed, run.reasoning, run.scoring) for run in results.runs] == [
        ("gpt-x", "base", 3, "cot", "answer-token"),
        ("gpt-x", "finetuned", 3, "cot", "answer-token"),
    ]
    base, finetuned = results.runs
    assert base.accuracy == {"heb_Hebr": 0.53, "fra_Latn": 0.61}
    assert base.n_items == {"heb_Hebr": 100, "fra_Latn": 100}
    assert finetuned.n_items == {"fra_Latn": 100}
    assert base.records is None
    assert results.notes == ()
    assert results.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()


def test_columns_of_a_line_come_before_the_options(tmp_path: Path) -> None:
    header = "accuracy,language,seed,scoring,reasoning,arm,model"
    lines = "0.5,heb_Hebr,7,cloze,cot,base,a\n0.5,heb_Hebr,,,,base,a\n"
    results = read_table(write(tmp_path, f"\ufeff{header}\r\n{lines}\n"), seed=2)
    assert [(run.seed, run.scoring, run.reasoning) for run in results.runs] == [
        (7, "cloze", "cot"),
        (2, "answer-token", "direct"),
    ]


def test_rounded_accuracies_are_told(tmp_path: Path) -> None:
    (note,) = read_table(write(tmp_path, GOOD.replace("0.61,100", "0.617,100"))).notes
    assert "1 of 4 accuracies are rounded" in note
    assert "line 3: 0.617 × 100" in note


def test_six_decimals_over_900_questions_are_not_rounded(tmp_path: Path) -> None:
    text = GOOD.replace("0.53,100", f"{481 / 900:.6f},900")
    assert read_table(write(tmp_path, text)).notes == ()


def test_what_is_known_of_an_accuracy_and_of_a_model_goes_with_its_runs(tmp_path: Path) -> None:
    header = "model,arm,language,accuracy,stderr,n_options,base,developer"
    lines = [
        "a,base,heb_Hebr,0.5,0.02,2,llama,Meta",
        "a,base,fra_Latn,0.6,,4,,",
        "a,finetuned,heb_Hebr,0.7,0,,,",
        "b,base,heb_Hebr,0.5,,,,",
    ]
    base, finetuned, other = read_table(write(tmp_path, "\n".join([header, *lines]))).runs
    assert (base.stderr, base.n_options) == ({"heb_Hebr": 0.02}, {"heb_Hebr": 2, "fra_Latn": 4})
    assert (finetuned.stderr, finetuned.n_options) == ({"heb_Hebr": 0}, {})
    # One line of a model says it for all of its runs.
    assert base.params == finetuned.params == {"base": "llama", "developer": "Meta"}
    assert other.params == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ("is empty", "write a header (model, arm, language, accuracy)")),
        ("model,arm,language,accuracy\n", ("has a header only",)),
        ("model;arm;language;accuracy\na;base;heb_Hebr;0,5\n", ("line 1", "semicolons", "commas")),
        ("model\tarm\tlanguage\taccuracy\n", ("line 1", "tabs")),
        (row("a,base,0.5", "model,arm,accuracy"), ("line 1", "column 'language' is missing")),
        (
            row("a,base,heb_Hebr,0.5", "model,arm,lang,accuracy"),
            ("line 1", "unknown column 'lang'. Did you mean 'language'?", "n_items, stderr"),
        ),
        (row("a,base,0.5,1", "model,arm,accuracy,arm"), ("'arm' appears twice",)),
        (row("a,base,heb_Hebr,0,5"), ("line 2: 5 values for 4 columns", "decimals with a point")),
        (row('a,base,heb_Hebr,"0,5"'), ("line 2, column accuracy: '0,5' is not a number", "point")),
        (
            row("a,base,heb_Hbr,0.5"),
            ("line 2, column language: unknown language code 'heb_Hbr'", "Close to it: heb_Hebr"),
        ),
        (row("a,tuned,heb_Hebr,0.5"), ("line 2, column arm: 'tuned'", "control-source")),
        (row("a,base,heb_Hebr,nan"), ("line 2, column accuracy: 'nan' is not a number",)),
        (row("a,base,heb_Hebr,inf"), ("line 2, column accuracy: inf must lie in 0 to 1",)),
        (row("a,base,heb_Hebr,"), ("line 2, column accuracy: empty",)),
        (row(",base,heb_Hebr,0.5"), ("line 2, column model: empty",)),
        (row("a,base,heb_Hebr,0.5\nb,base,heb_Hebr,1.2"), ("line 3, column accuracy: 1.2 must",)),
        (row("a,base,heb_Hebr,0.5\nb,base,heb_Hebr,-0.1"), ("line 3, column accuracy: -0.1 must",)),
        (
            row("a,base,heb_Hebr,53\nb,base,heb_Hebr,0"),
            ("look like per cent; write proportions: 0.53, not 53",),
        ),
        (row("a,base,heb_Hebr,53%"), ("write proportions: 0.53, not 53",)),
        (
            row("a,base,heb_Hebr,0.5\nb,base,heb_Hebr,0.5\na,base,heb_Hebr,0.6"),
            ("line 4: a/base/0/direct/answer-token/heb_Hebr is in line 2 already",),
        ),
        (
            GOOD.replace("0.61,100", "0.61,0"),
            ("line 3, column n_items: '0'", "whole number from 1"),
        ),
        (GOOD.replace("0.61,100", "0.61,9.5"), ("line 3, column n_items: '9.5'",)),
        (
            row("a,base,heb_Hebr,0.5,-1", "model,arm,language,accuracy,seed"),
            ("line 2, column seed: '-1'", "whole number from 0"),
        ),
        (
            row("a,base,heb_Hebr,0.5,deep", "model,arm,language,accuracy,reasoning"),
            ("line 2, column reasoning: 'deep'", "direct, cot"),
        ),
        (
            row("a,base,heb_Hebr,0.5,x", "model,arm,language,accuracy,scoring"),
            ("line 2, column scoring: 'x'", "answer-token, permuted, cloze"),
        ),
        *(
            (row(f"a,base,heb_Hebr,0.5,{value}", f"model,arm,language,accuracy,{column}"), told)
            for column, value, told in (
                ("n_options", "1", ("line 2, column n_options: '1'", "whole number from 2 to 26")),
                ("n_options", "27", ("line 2, column n_options: '27'", "from 2 to 26")),
                ("n_options", "2.0", ("line 2, column n_options: '2.0'",)),
                ("stderr", "1.5", ("line 2, column stderr: '1.5'", "number from 0 to 0.5")),
                ("stderr", "-0.1", ("line 2, column stderr: '-0.1'", "not of per cent")),
                ("stderr", "nan", ("line 2, column stderr: 'nan'",)),
                ("base", "b" * 501, ("line 2, column base: ", "one line of 500 characters")),
                ("developer", "b\x07", ("line 2, column developer: ", "one line of 500")),
            )
        ),
        (
            row(
                "a,base,heb_Hebr,0.5,x\nb,base,heb_Hebr,0.5,y\na,finetuned,heb_Hebr,0.5,y",
                "model,arm,language,accuracy,base",
            ),
            ("line 4, column base: 'y', but line 2 says 'x' of the same model 'a'", "one name"),
        ),
        (row('"a,base,heb_Hebr,0.5'), ("not CSV", "open double quote")),
        (GOOD.encode("utf-16"), ("line 1: not UTF-8 text; save it as CSV in UTF-8",)),
        (row("é,base,heb_Hebr,0.5").encode("latin-1"), ("line 2: not UTF-8",)),
    ],
)
def test_a_wrong_table_names_file_place_and_remedy(
    text: str | bytes, told: tuple[str, ...], tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        read_table(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for words in told:
        assert words in message


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; paths are looked up from"):
        read_results(tmp_path / "none.csv")


def test_options_that_a_table_answers_itself_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(ValueError, match="names model and arm in its columns"):
        read_results(path, model="other")
    with pytest.raises(ValueError, match="names model and arm in its columns"):
        read_results(path, arm="finetuned")
    assert read_results(path).form == "csv"
