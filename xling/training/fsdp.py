"""FSDP2 over a frozen four-bit base with LoRA on it: each process keeps its part of every weight.

Each process loads the whole four-bit base before its part is cut out, so a process's device must
hold the four-bit base once (not the float weights, which are quantised as they are read). What
stays whole on every process: the scales of four-bit blocks (3 % of the four-bit bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xling.models.fast_forward import blocks_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def shard(model: PeftModel) -> None:
    """Shard a model in place: each decoder block, and what is outside of them.

    A block's weights are together on a process only while it computes with them.

    Args:
        model: frozen base with trainable adapters; equal on all processes.

    Raises:
        ValueError: the architecture does not say what its decoder blocks are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _keep_quantisation(model)
    mesh = init_device_mesh(model.device.type, (_processes(),))
    for block in decoder_blocks(model):
        fully_shard(block, mesh=mesh)
    root = fully_shard(model, mesh=mesh)
    # An expert that one process did not use has a gradient on the others.
    root.set_reduce_scatter_unused_params(True)


def decoder_blocks(model: PeftModel) -> list[torch.nn.Module]:
    """List the modules that are computed one after the other, in model order.

    Raises:
        ValueError: there are none.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ValueError(
            f"{type(model.get_base_model()).__name__} does not name its decoder blocks, so it "
            "cannot be sharded; set `parallel: ddp` on the model"
        )
    return blocks


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor of which each process may hold a part; every process must call at once."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Write a whole tensor's values into a tensor of which this process may hold a part."""
    import torch
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        tensor.copy_(values)
        return
    # FSDP2 cuts along the first dimension, as torch.chunk does; the last parts may be empty.
    local, mesh = tensor.to_local(), tensor.device_mesh
    parts = torch.chunk(values, mesh.size(), dim=0)
    if mesh.get_local_rank() < len(parts):
        local.copy_(parts[mesh.get_local_rank()])


def local_bytes(model: PeftModel) -> int:
    """Count the bytes of the frozen weights that this process holds."""
    from torch.distributed.tensor import DTensor

    return sum(
        part.numel() * part.element_size()
        for parameter in model.parameters()
        if not parameter.requires_grad
        for part in [parameter.to_local() if isinstance(parameter, DTensor) else parameter]
    )


def _processes() -> int:
    import torch.distributed as dist

    return dist.get_world_size()


def _keep_quantisation(model: PeftModel) -> None:
    """Note on each four-bit layer how to read its weight, which a sharded tensor cannot say."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            module.quant_state = weight.quant_state
