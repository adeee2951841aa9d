"""Which kernels compute attention on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


@contextmanager
def attention_of_any_shape() -> Iterator[None]:
    """In the block, attention on a GPU takes each batch as it comes.

    cuDNN's, which torch prefers on recent GPUs, plans for every new shape, and almost every batch
    of prompts has a shape of its own: 65 ms each on an H200, as much as a batch of 4,096 tokens.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    usual = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(usual) if torch.cuda.is_available() else nullcontext():
        yield
