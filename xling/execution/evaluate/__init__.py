"""The evaluate cell: score a model over all languages, and log records and metrics.

The engines themselves are in `xling.scoring`.
"""
