"""A study's cells on a Ray cluster: resources, scheduling, workers.

A study on one machine never imports it.
"""
