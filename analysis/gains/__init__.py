"""Answers become gains: by cell, by model and language, by item; and weak and strong models.

Here is what estimators work on. No hypothesis is tested but that of a single cell.
"""
