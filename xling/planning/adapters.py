"""Which matrices are in four bits and which get LoRA, by architecture, from sizes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from xling.models.architectures import architecture_of
from xling.planning.sizes import Matrix, Sizes


def four_bit_matrices(sizes: Sizes, *, quantise: str = "nf4") -> tuple[Matrix, ...]:
    """The matrices that a load leaves in four bits: those of the blocks, routers apart.

    Args:
        sizes: of the model.
        quantise: ``nf4``, or ``none``.

    Returns:
        Of an architecture that nothing is known of, the linear layers alone: a plain load leaves
        fused experts as they are.
    """
    if quantise == "none":
        return ()
    known = architecture_of(sizes.model_type)
    experts = known is not None and known.experts != "none"
    return tuple(each for each in sizes.matrices if experts or not each.is_expert)


def lora_matrices(sizes: Sizes, *, pattern: str = "") -> tuple[Matrix, ...]:
    """The matrices that get an adapter; an expert's stands for all of its layer.

    Args:
        sizes: of the model.
        pattern: a study's own regular expression over module names; empty: by architecture.

    Returns:
        Of an architecture that nothing is known of, all linear layers of its blocks.
    """
    known = architecture_of(sizes.model_type)
    chosen = pattern or (known.lora_modules if known else "")
    # Experts that stay a stack of parameters are no modules that LoRA could be put on.
    reached = known is not None and known.experts == "unfuse"
    return tuple(
        each
        for each in sizes.matrices
        if re.search(chosen, each.name) and (reached or not each.is_expert)
    )


def lora_parameters(matrices: Iterable[Matrix], r: int) -> int:
    """Trained parameters: r (inputs + outputs) of each (Hu et al. 2021, arXiv 2106.09685)."""
    return sum(r * (each.inputs + each.outputs) * each.copies for each in matrices)
