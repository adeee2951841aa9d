"""The analysis of finished runs: estimates, figures, tables and the report.

It reads runs and item records. It never loads a model, and knows the store only by its functions.
"""
