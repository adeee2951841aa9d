"""Entry points: one click command a file; options, validation, one call."""
