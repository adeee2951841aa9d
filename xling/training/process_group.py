"""The processes that train one adapter together, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Parallel = Literal["fsdp", "ddp"]


@dataclass(frozen=True)
class ProcessGroup:
    """One process's place among those that train together.

    Attributes:
        rank: of this process; 0 does what is done once.
        size: how many there are.
        parallel: ``fsdp`` shards the model over them, ``ddp`` gives each all of it.
    """

    rank: int = 0
    size: int = 1
    parallel: Parallel = "ddp"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows the progress bar."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds only its part of the model."""
        return self.size > 1 and self.parallel == "fsdp"

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the processes; every process gets the sums."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, by rank, to every process."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every parameter the sum of its gradients over the processes.

        A sharded model has done so in its backward pass. A parameter that no example used (an
        expert that no token was sent to) gets a gradient of zero, however many processes there
        are, so that the optimiser treats it alike everywhere.
        """
        import torch
        import torch.distributed as dist

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.size == 1 or self.sharded:
            return
        # One message for all: an adapter's gradients are small, and many.
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def environment_size() -> int:
    """Return how many processes torchrun, accelerate or srun started; 1: this one is alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def environment_rank() -> int:
    """Return this process's rank among them."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def connected(timeout: timedelta) -> Iterator[None]:
    """Connect the processes of this environment for the block: gloo, with NCCL between GPUs.

    Args:
        timeout: how long one process waits for another.

    Raises:
        ValueError: this machine has fewer GPUs than processes.
    """
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {environment_rank()} is number {local + 1} on its machine, which has "
                f"{torch.cuda.device_count()} GPUs; start one process per GPU"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()
