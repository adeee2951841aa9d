"""Sections of the report for the arms and instruments that a study has: figure, table, words.

They show what was estimated or logged, and estimate no contrast themselves.
"""
