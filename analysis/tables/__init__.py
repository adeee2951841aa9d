"""Tables: how numbers and names are written, as fields of the report, CSV and LaTeX.

Nothing here estimates.
"""
