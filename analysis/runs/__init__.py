"""The runs that an analysis reads: pulled from the store, cached, and how they were made.

Nothing here estimates.
"""
