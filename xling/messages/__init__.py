"""Errors, values in messages, and secrets that are masked in them.

Every wing may import it; it imports no wing, and never decides what a result is.
"""
