"""Memory of this process and of the GPUs that it sees."""

import gc


def free_memory() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    import torch

    gc.collect()  # modules that were adapted or trained refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak_memory() -> None:
    """Lets the GPUs' peaks start anew."""
    import torch

    for device in _gpus():
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory() -> int:
    """Bytes: of the fullest GPU's allocator, or of this process (Linux reports kilobytes)."""
    import resource

    import torch

    if _gpus():
        return max(int(torch.cuda.max_memory_allocated(device)) for device in _gpus())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _gpus() -> range:
    """Numbers of the GPUs that this process sees; a model may be spread over them."""
    import torch

    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
