"""Tables of the estimates: how numbers and names are written, as CSV and LaTeX.

Nothing here estimates.
"""
