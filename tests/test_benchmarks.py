"""The benchmarks' own logic: targets, environments, workers, counting and reporting."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import demo_speed, environments, gpu_speed, side_by_side
from benchmarks.contest import Contestants, ratios, take_turns, total
from benchmarks.environments import environment, environment_folder, frozen_hash
from benchmarks.flops import counted
from benchmarks.gpu_model import save_model
from benchmarks.requirements import pins, requirements
from benchmarks.scaling import growth, memory
from benchmarks.scaling import lines_of as scaling_lines
from benchmarks.scored_items import Prompts, chunks, load_items
from benchmarks.scoring_speed import best_size, sizes_table
from benchmarks.scoring_worker import bare_batches
from benchmarks.side_by_side import (
    OutOfMemory,
    Section,
    Worker,
    line,
    markdown,
    run_worker,
    table,
)
from benchmarks.startup_speed import start
from benchmarks.training_speed import COMPACT, OURS, TRL, check_first_adapters
from benchmarks.training_speed import lines_of as training_lines

HERE = Path(sys.executable)


def test_without_a_gpu_nothing_of_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    section = gpu_speed.run(quick=True, threads=1)
    assert len(section.lines) == 2
    assert all(math.isnan(each.ratio) and not each.reached for each in section.lines)


def test_a_gpu_s_share_is_of_its_own_rate() -> None:
    scored = {gpu_speed.SCORED: {"operations_per_s": 3e14}}
    trained = {gpu_speed.TRAINED: {"operations_per_s": 6e14}}
    scoring, training = gpu_speed.lines_of(scored, trained, 8e14, "")
    assert (scoring.ratio, training.ratio) == (0.375, 0.75)
    assert (scoring.reached, training.reached) == (False, True)


@pytest.mark.slow
def test_the_gpu_s_model_is_what_the_package_loads(tmp_path: Path) -> None:
    from xling.models import locate_model
    from xling.scoring import InProcessEngine

    prompts = [f"Passage {n}: words and more words. Answer: (" for n in range(30)]
    small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    save_model(tmp_path, prompts, **small, **heads, vocab_size=1000)
    opened = locate_model(str(tmp_path)).open()
    engine = InProcessEngine(opened.model, opened.tokenizer, add_special_tokens=True)
    assert engine.score(prompts).logprobs.shape == (30, 4)


def test_without_belebele_other_languages_stand_in(tmp_path: Path) -> None:
    name, items = load_items(["eng_Latn", "deu_Latn", "ind_Latn"], tmp_path)
    codes = {item.dialect for item in items}
    assert "mini" in name and "eng_Latn" in codes
    assert len(codes) == 3 and all(code.endswith("_Latn") for code in codes)


def worker_file(folder: Path, body: str, *, stays: bool = False) -> list[str]:
    path = folder / "worker.py"
    main = "work_on(start)" if stays else "work_once(work)"
    path.write_text(f"from benchmarks.measuring import *\n{body}\n{main}\n")
    return [str(path)]


@pytest.mark.parametrize(
    ("ratio", "higher", "reached"),
    [(4.0, True, True), (3.9, True, False), (3.9, False, True), (4.1, False, False)],
)
def test_a_line_is_reached_on_the_right_side_of_its_goal(
    ratio: float, higher: bool, reached: bool
) -> None:
    found = line("speed", ratio, 4.0, higher_is_better=higher)
    assert found.reached is reached
    assert ("| yes |" in table([found])) is reached


def test_what_was_not_measured_reaches_nothing() -> None:
    for higher in (True, False):
        assert not line("speed", math.nan, 1.0, higher_is_better=higher).reached


def test_the_table_says_how_far_and_keeps_its_columns() -> None:
    rows = table([line("a | b", 3.0, 4.0, note="two\nlines")]).splitlines()
    assert len(rows) == 3
    assert "no (75% of it)" in rows[2]
    assert rows[2].replace("\\|", "").count("|") == rows[0].count("|")


def test_an_environment_is_named_by_what_it_holds() -> None:
    one = environment_folder("tool", ["a==1", "b==2"])
    assert one == environment_folder("tool", ["b==2", "a==1"])
    assert one != environment_folder("tool", ["a==1", "b==3"])
    assert one.name.startswith("tool-")
    assert one.parent == environments.ENVIRONMENTS


def test_other_tools_get_this_projects_torch() -> None:
    for name in ("lm-eval", "trl"):
        assert pins()["torch"] in requirements(name)
        assert all("==" in each for each in requirements(name))
    with pytest.raises(ValueError, match="'other'"):
        requirements("other")


@pytest.mark.slow
def test_a_failed_environment_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "made")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match="xling-no-such-package"):
        environment("tool", ["xling-no-such-package==0"])
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.slow
def test_an_environment_is_whole_and_lists_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "made")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert frozen_hash("tool", ["pip"]) == ""
    python = environment("tool", ["pip"])  # what is there already needs no index
    assert python.is_file()
    assert (python.parents[1] / "freeze.txt").read_text().startswith("pip==")
    assert len(frozen_hash("tool", ["pip"])) == 12
    assert environment("tool", ["pip"]) == python
    assert [each.name for each in (tmp_path / "made").iterdir()] == [python.parents[1].name]


def test_a_worker_gets_settings_and_threads_and_answers(tmp_path: Path) -> None:
    body = """
import os
def work(settings):
    _, seconds = measured(lambda: bytearray(2**26).count(1))
    return {"twice": 2 * settings["n"], "threads": os.environ["OMP_NUM_THREADS"], **seconds}
"""
    found = run_worker(HERE, worker_file(tmp_path, body), {"n": 3, "threads": 1})
    assert (found["twice"], found["threads"]) == (6, "1")
    assert found["peak_bytes"] > 2**26
    assert found["cpu_s"] > 0


def test_a_failing_worker_says_why(tmp_path: Path) -> None:
    body = "def work(settings): raise ValueError('no such model')"
    with pytest.raises(RuntimeError, match="status 1(.|\n)*no such model"):
        run_worker(HERE, worker_file(tmp_path, body), {})


def test_workers_take_turns_and_survive_what_libraries_print(tmp_path: Path) -> None:
    body = """
import time
def start(settings):
    print("loading")
    def answer(request):
        print("noise", request)
        return {"cpu_s": settings["speed"] * request, "at": time.perf_counter()}
    return answer
"""
    file = worker_file(tmp_path, body, stays=True)
    with Worker(HERE, file, {"speed": 1}) as one, Worker(HERE, file, {"speed": 4}) as four:
        turns = take_turns({"one": one, "four": four}, [1, 2, 3], what="test", only={"one": [0, 2]})
    assert [turn["cpu_s"] for turn in turns["four"]] == [4, 8, 12]
    assert total(turns["one"], "cpu_s") == 1 + 3
    assert ratios(turns["four"], turns["one"], "cpu_s") == [4, 4]
    assert [turn["turn"] for turn in turns["one"]] == [0, 2]
    assert turns["one"][0]["at"] < turns["four"][0]["at"]


def test_a_worker_that_stays_says_why_it_failed(tmp_path: Path) -> None:
    body = "def start(settings): return lambda request: 1 / request"
    with Worker(HERE, worker_file(tmp_path, body, stays=True), {}) as worker:
        assert worker.ask(2) == 0.5
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            worker.ask(0)
    with (
        pytest.raises(RuntimeError, match="status 3"),
        Worker(HERE, worker_file(tmp_path, "import sys; sys.exit(3)", stays=True), {}),
    ):
        pass


@pytest.mark.slow
def test_a_late_worker_is_ended(tmp_path: Path) -> None:
    body = """
import time
def start(settings): return lambda request: time.sleep(request)
"""
    with Worker(HERE, worker_file(tmp_path, body, stays=True), {}) as worker:
        worker.ask(0)
        worker._limit_s = 1  # from here: loading takes as long as the machine is slow
        with pytest.raises(RuntimeError, match="no answer in 1 s"):
            worker.ask(3600)


@pytest.mark.parametrize(
    "fate",
    ["os.kill(os.getpid(), 9)", "bytearray(2**60)", 'raise RuntimeError("can\'t allocate memory")'],
)
def test_what_had_no_memory_is_told_from_what_failed(tmp_path: Path, fate: str) -> None:
    body = f"""
import os
def start(settings):
    def answer(request):
        {fate}
    return answer
"""
    with (
        Worker(HERE, worker_file(tmp_path, body, stays=True), {}) as worker,
        pytest.raises(OutOfMemory, match="probably out of memory|MemoryError|allocate memory"),
    ):
        worker.ask(1)


def test_contestants_make_room_for_each_other(tmp_path: Path) -> None:
    body = """
import os
def start(settings):
    room = b"x" * settings["bytes"]
    return lambda request, room=room: {"pid": os.getpid(), "peak_bytes": 2**20}
"""
    file = worker_file(tmp_path, body, stays=True)
    free = {"bytes": 2**40}
    makers = {
        name: lambda size=size: Worker(HERE, file, {"bytes": size})
        for name, size in (("small", 1), ("large", 2**26))
    }
    contest = Contestants(makers, lambda: free["bytes"])
    with contest as seats:
        first = take_turns(seats, [1, 2], what="test")
        assert len({turn["pid"] for turn in first["large"]}) == 1
        assert contest.held["large"] > contest.held["small"] > 0
        assert contest.ended == 0
        free["bytes"] = -(2**40)
        again = seats["small"].ask(3)
        assert again["pid"] == first["small"][0]["pid"]
        assert contest.ended == 1
        assert seats["large"].ask(3)["pid"] != first["large"][0]["pid"]


def test_a_smaller_batch_size_near_the_best_is_taken() -> None:
    sizes = {1: {"cpu_s": 10.2}, 4: {"cpu_s": 10.0}, 8: None}
    assert best_size(sizes) == 1
    assert best_size({1: {"cpu_s": 12.0}, 4: {"cpu_s": 10.0}, 8: {"cpu_s": 9.9}}) == 4
    with pytest.raises(RuntimeError, match=r"\[1, 4\]"):
        best_size({1: None, 4: None})
    assert "did not fit" in sizes_table({8: None}, 16)


def test_bare_batches_hold_their_tokens_and_every_row_once() -> None:
    lengths = [50, 40, 30, 9, 9, 8]
    assert bare_batches(range(6), lengths, 90) == [[0], [1, 2], [3, 4, 5]]
    assert bare_batches(range(6), lengths, 10) == [[0], [1], [2], [3], [4], [5]]
    assert [len(each) for each in bare_batches(range(40), [5] * 40, 0)] == [16, 16, 8]


def turns_of(losses: list[float], first: float = 7.0, times: int = 2) -> list[dict[str, Any]]:
    return [
        {"turn": k, "losses": losses, "first_weights": first, "cpu_s": 2.0, "wall_s": 1.0}
        for k in range(times)
    ]


def test_losses_are_compared_over_all_turns() -> None:
    turns = {OURS: turns_of([1.0, 0.5]), TRL: turns_of([1.0, 0.5], times=1)}
    turns[COMPACT] = turns_of([1.0, 0.5])
    assert training_lines(turns)[-1].reached
    turns[COMPACT][1]["losses"] = [1.0, 0.502]
    last = training_lines(turns)[-1]
    assert not last.reached and last.ratio == pytest.approx(0.002)


def test_other_first_adapters_are_an_error() -> None:
    check_first_adapters({OURS: turns_of([1.0]), TRL: []})
    with pytest.raises(RuntimeError, match=f"{TRL} begins with another adapter"):
        check_first_adapters({OURS: turns_of([1.0]), TRL: turns_of([1.0], first=7.1)})


def test_memory_that_is_not_known_reaches_no_goal() -> None:
    assert math.isnan(memory({"peak_bytes": 5, "held_bytes": None}))
    assert math.isnan(memory({"peak_bytes": 5, "held_bytes": 5}))
    assert memory({"peak_bytes": 5, "held_bytes": 2}) == 3
    found = {k: {"cpu_s": k, "tokens": k, "memory": math.nan} for k in (1, 2)}
    of_time, of_memory = scaling_lines("items", found)
    assert of_time.reached and not of_memory.reached
    assert of_memory.note == "not measured" and "not measured" in table([of_memory])


def test_the_demonstration_copies_what_git_knows(tmp_path: Path) -> None:
    demo_speed.copy_tree(tmp_path / "tree")
    assert (tmp_path / "tree" / "MLproject").is_file()
    assert not (tmp_path / "tree" / ".venv").exists()
    assert not demo_speed.not_run().lines[0].reached


def test_a_start_that_ends_otherwise_is_an_error() -> None:
    wall, cpu = start(["--help"], 0, "--model")
    assert wall > 0 and cpu > 0
    with pytest.raises(RuntimeError, match="ended with"):
        start(["--help"], None, "--model")


def test_operations_of_a_tiny_model_are_those_of_its_formula() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, heads, kv, layers, vocabulary = 32, 48, 4, 2, 3, 64
    rows, length = 2, 10
    size = hidden // heads
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=kv, num_hidden_layers=layers, vocab_size=vocabulary,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    tokens = torch.ones(rows, length, dtype=torch.long)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, 0] = 0
    projections = hidden * (2 * heads * size + 2 * kv * size) + 3 * hidden * inner
    attention = 2 * heads * size * length
    a_token = 2 * layers * (projections + attention)
    expected = rows * length * a_token + 2 * rows * hidden * vocabulary
    with torch.inference_mode():
        found = counted(
            lambda: model(tokens, attention_mask=mask, logits_to_keep=1, use_cache=False)
        )
    assert found == expected


def test_chunks_hold_every_prompt_once_and_passages_whole() -> None:
    prompts = Prompts("made", tuple((f"{k}a", f"{k}b")[: 1 + k % 2] for k in range(11)))
    parts = chunks(prompts, 3)
    dealt = [text for part in parts for text in part]
    assert sorted(dealt) == sorted(text for each in prompts.passages for text in each)
    where = {text: k for k, part in enumerate(parts) for text in part}
    assert all(len({where[text] for text in passage}) == 1 for passage in prompts.passages)
    assert max(map(len, chunks(prompts, 1, most=4))) == 4


def test_without_belebele_the_embedded_set_is_named(tmp_path: Path) -> None:
    name, items = load_items(["eng_Latn"], tmp_path / "missing")
    assert "mini" in name and "missing" in name
    assert items


def test_growth_is_the_exponent() -> None:
    assert growth([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert growth([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert growth([1, 2, 4], [5, 5, 5]) == pytest.approx(0, abs=1e-12)


def test_a_failing_section_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, body in {
        "made_good": "return Section('Good', 'all of it', [line('speed', 2.0, 1.0)])",
        "made_lines": "return [line('memory', 0.5, 0.4, higher_is_better=False)]",
        "made_bad": "raise RuntimeError('no room')",
    }.items():
        (tmp_path / f"{name}.py").write_text(
            "from benchmarks.side_by_side import Section, line\n"
            f"def run(quick, threads):\n    {body}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    sections = {"good": "made_good", "bad": "made_bad", "lines": "made_lines"}
    monkeypatch.setattr(command, "SECTIONS", sections)
    monkeypatch.setattr(command, "RESULTS", side_by_side.ROOT / "benchmarks" / "not-written.md")
    target = tmp_path / "out.md"
    written = []
    run = command.run_section

    def watched(name: str, **how: Any) -> command.Done:
        written.append(target.read_text() if target.exists() else "")
        return run(name, **how)

    monkeypatch.setattr(command, "run_section", watched)
    assert command.main(["--quick", "--threads", "1", "--output", str(target)]) == 1
    text = target.read_text()
    assert "1 of 3 targets reached, 1 not measured" in text
    assert "all of it" in written[1] and "Not run, or not yet: bad, lines" in written[1]
    assert "no room" in written[2] and "Not run" not in text
    assert "no room" in text and "all of it" in text and "torch 2" in text
    assert command.main(["--only", "good,lines", "--output", str(target)]) == 0
    with pytest.raises(SystemExit):
        command.main(["--only", "other"])
    assert "there are good, bad, lines" in capsys.readouterr().err


def test_sections_are_markdown_that_json_can_hold() -> None:
    section = Section("Title", markdown(["a"], [[1]]), [line("x", 1.0, 1.0)])
    assert json.loads(json.dumps(section.text)) == "| a |\n| --- |\n| 1 |"
