"""Answers become gains: by cell, by model and language, by item."""
