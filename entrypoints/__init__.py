"""Entry points: one click command a file; options, validation, one call.

Commands import MLflow, pandas and all that needs them in their bodies: it takes seconds, and
``--help`` and a wrong option are answered without.
"""
