"""From a model's name to checked weights on this machine: hub, folders, packages, GGUF, quantised formats.

Nothing here builds a network; see `xling.models.loading`.
"""
