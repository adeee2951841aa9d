"""Training: its loop, steps and checkpoints, in one process or over several.

`loop.train_adapter` trains; `processes.train_together` does so in other processes, and
`torchrun.led` shares those of torchrun. What a study trains, and logs of it, is not known here.
"""
