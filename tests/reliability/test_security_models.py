"""Hostile model folders and adapters, opened as a user's would be: nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_models import save_tiny_model
from xling.models import locate_model
from xling.models.adapters import attach_lora, chosen_modules, load_adapter
from xling.models.loading import load_base, load_tokenizer

CLASSES = (
    "class Config: pass\nclass Model: pass\nclass Tokenizer: pass\ndef generate(model, **_): pass\n"
)
Prepare = Callable[[Path, Path], None]


class Planted:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def folder(tmp_path: Path, tiny_model) -> Path:
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def code(marker: Path) -> str:
    return f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\n{CLASSES}"


def change(path: Path, **settings: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | settings))


def write_pickle(path: Path, marker: Path) -> None:
    torch.save({"weight": Planted(marker)}, path)


def with_pickles_alone(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", marker)


def with_unknown_type(folder: Path, marker: Path) -> None:
    (folder / "code.py").write_text(code(marker))
    change(
        folder / "config.json",
        model_type="hostile",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )


def with_tokenizer_class(folder: Path, marker: Path) -> None:
    (folder / "code.py").write_text(code(marker))
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="Tokenizer",
        auto_map={"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]},
    )


def with_kernel(folder: Path, marker: Path) -> None:
    change(folder / "config.json", attn_implementation="someone/kernel:attend")


def with_inner_kernel(folder: Path, marker: Path) -> None:
    change(folder / "config.json", text_config={"_experts_implementation": "someone/kernel"})


def with_adapter_inside(folder: Path, marker: Path) -> None:
    write_pickle(folder / "adapter_model.bin", marker)
    change(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="elsewhere")


def with_more_blocks(folder: Path, marker: Path) -> None:
    change(folder / "config.json", num_hidden_layers=10**9)


def with_deep_config(folder: Path, marker: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def with_shards_elsewhere(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "some.safetensors")
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_pickled_shards(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, folder / "some.safetensors")
    write_pickle(folder / "pytorch_model.bin", marker)
    index = {"weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("prepare", "file", "remedy"),
    [
        (with_pickles_alone, "*.safetensors", "convert them with save_pretrained"),
        (with_unknown_type, "model", "are not run; use one whose architecture"),
        (with_tokenizer_class, "tokenizer of", "are not run; use one whose architecture"),
        (with_kernel, "config.json", "'someone/kernel:attend', a kernel that would be fetched"),
        (with_inner_kernel, "config.json", "set it to one of eager, batched_mm, grouped_mm"),
        (with_adapter_inside, "adapter_config.json", "Take the adapter's files out"),
        (with_more_blocks, "config.json", "num_hidden_layers is 1000000000"),
        (with_deep_config, "config.json", "fetch it again"),
        (with_shards_elsewhere, "index.json", "'../other.safetensors', which is not a file of the"),
        (with_pickled_shards, "pytorch_model.bin", "is not a safetensors file"),
    ],
)
@pytest.mark.parametrize("quantise", ["nf4", "none"])
def test_a_hostile_model_is_refused_and_runs_nothing(
    prepare: Prepare, file: str, remedy: str, quantise, folder: Path, marker: Path
) -> None:
    prepare(folder, marker)
    with pytest.raises(ValueError) as refused:
        locate_model(str(folder), quantise=quantise).open()
    assert str(folder) in str(refused.value)
    assert file in str(refused.value) and remedy in str(refused.value)
    assert "Please pass" not in str(refused.value)  # no advice to trust the code
    assert not marker.exists()


def with_auto_map(folder: Path, marker: Path) -> None:
    (folder / "code.py").write_text(code(marker))
    change(
        folder / "config.json",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "code.Tokenizer"]})


def with_generate(folder: Path, marker: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code(marker))
    (folder / "custom_generate" / "requirements.txt").write_text("no-such-package-anywhere\n")


def with_pickles_beside(folder: Path, marker: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl"):
        write_pickle(folder / name, marker)
    np.save(folder / "weights.npy", np.array([Planted(marker)], dtype=object), allow_pickle=True)


def with_a_class_of_the_machine(folder: Path, marker: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="os.system")


@pytest.mark.parametrize(
    "prepare",
    [with_auto_map, with_generate, with_pickles_beside, with_a_class_of_the_machine],
)
def test_code_beside_a_whole_model_is_left_alone(
    prepare: Prepare, folder: Path, marker: Path
) -> None:
    prepare(folder, marker)
    opened = locate_model(str(folder), quantise="none").open()
    assert type(opened.model).__module__.startswith("transformers.models.llama")
    assert type(opened.tokenizer).__module__.startswith("transformers.")
    assert not marker.exists()


def test_the_planted_pickles_do_run_where_they_are_unpickled(tmp_path: Path, marker: Path) -> None:
    """Or the tests above would show nothing."""
    path = tmp_path / "planted.pkl"
    path.write_bytes(pickle.dumps(Planted(marker)))
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_a_chat_template_reaches_nothing_outside_of_it(folder: Path, marker: Path) -> None:
    from jinja2.exceptions import SecurityError

    (folder / "chat_template.jinja").write_text(
        f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}"
    )
    tokenizer = load_tokenizer(folder)
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "BPE"}}', "\x00" * 100])
def test_a_damaged_tokenizer_is_named(text: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match="cannot read the tokenizer of .*model"):
        load_tokenizer(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_tiny_model("llama", folder)
    return load_base(folder, four_bit=False)


@pytest.fixture
def adapter(tmp_path: Path, base) -> Path:
    adapted = attach_lora(base, modules=chosen_modules(base), r=2, alpha=4, dropout=0.0, seed=0)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.unload()
    return tmp_path / "adapter"


def test_the_adapter_itself_is_fine(adapter: Path, base) -> None:
    load_adapter(base, adapter).unload()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "XLORA", "adapters": {"0": "someone/else"}}, "peft_type is 'XLORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config is"),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "antigravity"}}, "auto_map"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"eva_config": {"rho": 2.0}}, "eva_config is"),
    ],
)
def test_an_adapter_that_is_more_than_weights_is_refused(
    settings: dict[str, object], told: str, adapter: Path, base
) -> None:
    change(adapter / "adapter_config.json", **settings)
    with pytest.raises(ValueError, match=r"adapter_config\.json") as refused:
        load_adapter(base, adapter)
    assert told in str(refused.value) and "this package trained" in str(refused.value)


def test_a_pickled_adapter_is_refused(adapter: Path, base, marker: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    write_pickle(adapter / "adapter_model.bin", marker)
    with pytest.raises(ValueError, match=r"lacks adapter_model\.safetensors; pickled weights"):
        load_adapter(base, adapter)
    assert not marker.exists()
