"""Training over several processes, each with a GPU of its own where there are GPUs.

`choosing.train_together` runs a `job.TrainingJob` in processes that it launches, or, under
torchrun, in those that are there; `following.led` is what a command needs for the latter.
`xling.training` uses `batches`, `checkpoints` and `group` in one process too.
"""
