"""GPUs by name: memory, speed and how many a node has, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

RUNTIME_BYTES = 10**9
"""What the driver, the libraries and the collective buffers of a process take of a GPU's memory."""
BETWEEN_NODES_GB = 50
"""Of a GPU to other nodes, 10⁹ bytes a second: an InfiniBand NDR port (400 Gbit/s) each."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: model and memory.
        memory_gb: 10⁹ bytes.
        tflops: dense bfloat16 with accumulation in single precision, 10¹² a second, no sparsity.
        bandwidth_tb: memory bandwidth, 10¹² bytes a second.
        link_gb: to the other GPUs of its node, 10⁹ bytes a second in one direction.
        per_node: how many its usual server has.
    """

    name: str
    memory_gb: int
    tflops: float
    bandwidth_tb: float
    link_gb: int
    per_node: int

    @property
    def usable_bytes(self) -> int:
        """Memory that is left for the model."""
        return self.memory_gb * 10**9 - RUNTIME_BYTES


def gpus() -> dict[str, Gpu]:
    """Return the known GPUs by name.

    Sources are the data sheets of A100 (2022), H100 SXM (2024), H200 SXM (2024), L40S (2024),
    L4 (2023), DGX B200 (2025), the Ada architecture's white paper (RTX 4090; 2023), and AMD's
    MI300X (2023). Links are NVLink, Infinity Fabric or, without
    either, PCIe 4.0. Figures with sparsity there are halved here.
    """
    known = (
        Gpu("A100-40GB", 40, 312.0, 1.555, 300, 8),
        Gpu("A100-80GB", 80, 312.0, 2.039, 300, 8),
        Gpu("H100-80GB", 80, 989.0, 3.35, 450, 8),
        Gpu("H200-141GB", 141, 989.0, 4.8, 450, 8),
        Gpu("B200-180GB", 180, 2250.0, 8.0, 900, 8),
        Gpu("MI300X-192GB", 192, 1307.0, 5.3, 448, 8),
        Gpu("L40S-48GB", 48, 362.0, 0.864, 32, 8),
        Gpu("L4-24GB", 24, 121.0, 0.3, 32, 8),
        Gpu("RTX4090-24GB", 24, 165.0, 1.008, 32, 4),
    )
    return {gpu.name: gpu for gpu in known}
