"""Measures other than gains: option positions, calibration, answer mass, expert routing.

They describe runs by language. Nothing here tests a hypothesis or draws.
"""
