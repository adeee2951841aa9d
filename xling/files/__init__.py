"""Files: paths, atomic writes, checksums, strict readers, the fingerprint of a result, pins.

What a study asks, how a model answers and what a run logs never stand here.
"""
