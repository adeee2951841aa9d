"""From a model's name to checked weights on this machine: hub, folders, packages, GGUF.

Quantised formats are dequantised here. Nothing builds a network; see `xling.models.loading`.
"""
