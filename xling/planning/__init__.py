"""What a study needs, from configurations alone: memory, computation, time and GPUs.

Nothing here loads weights, trains or scores; `xling.execution` acts on what is found.
"""
