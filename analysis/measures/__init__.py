"""Measures taken from records: formats, routing, accuracy.

Gains and tests are in `analysis.gains` and `analysis.estimators`.
"""
