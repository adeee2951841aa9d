"""The runs that an analysis reads: pulled from the store, their files cached and checked.

How they were made is compared here, too. Nothing here estimates, and nothing is written to a store.
"""
