"""Drawings of what was found, without pyplot, for files and for the page.

They take tables and rows of estimates. No test is made here, and no file is read.
"""
