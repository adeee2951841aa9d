"""Files: paths, atomic writes, append logs, checksums, strict readers, fingerprints, pins.

What a study asks, how a model answers and what a run logs never belong here.
"""
