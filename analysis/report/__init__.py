"""The report: one HTML file that says what the data can and cannot show, and its figures.

It puts estimates into words, and computes none.
"""
