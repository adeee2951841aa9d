"""Reads the records of finished runs, computes estimates, draws figures and writes tables."""
