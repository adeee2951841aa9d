"""The finetune cell: train one adapter, log it, and load it back.

The training loop is in `xling.training`.
"""
