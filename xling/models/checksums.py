"""Tells whether a model in memory is still what was loaded."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

WORD = 8


def checksums(model: "nn.Module") -> dict[str, int] | None:
    """A number for each parameter and buffer, by name; other bits give another number.

    It takes one reading of the memory, far less than a load.

    Returns:
        None where some weights are not in memory, and cannot be told.
    """
    found = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type == "meta":
            return None
        found[name] = _checksum(tensor.detach())
    return found


def _checksum(tensor: "torch.Tensor") -> int:
    """Sum of the bytes, eight at a time, modulo 2 to the 64th."""
    import torch

    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // WORD * WORD
    words = flat[:whole]
    if words.storage_offset() % WORD == 0:
        words = words.view(torch.int64)
    return int(words.sum(dtype=torch.int64)) + int(flat[whole:].sum(dtype=torch.int64))
