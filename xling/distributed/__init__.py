"""Names of the version before: the worker that an `XLING_LAUNCHER` line may name.

The code is in `xling.training`; nothing new belongs here, and it goes with version 0.3.
"""
