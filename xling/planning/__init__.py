"""What a study needs, from configurations alone: memory, computation, time and GPUs."""
