"""Memory of this process and of the GPUs that it sees."""

from __future__ import annotations

import gc

# Of errors that have no class: the CPU's allocator, cuBLAS, the driver.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


def free_memory() -> None:
    """Give back the memory of models that nothing refers to any more."""
    import torch

    gc.collect()  # modules that were adapted or trained refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak_memory() -> None:
    """Let the GPUs' peaks start anew."""
    import torch

    for device in _gpus():
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory() -> int:
    """Return the peak in bytes: of the fullest GPU's allocator, or of this process."""
    import resource

    import torch

    if _gpus():
        return max(int(torch.cuda.max_memory_allocated(device)) for device in _gpus())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux: kilobytes


def _gpus() -> range:
    """List the GPUs that this process sees; a model may be spread over them."""
    import torch

    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the GPU or the machine has no memory left.

    Linux rather ends a process that uses too much; a refused allocation is the rarer case there.
    """
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
