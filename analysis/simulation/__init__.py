"""Item records of known truth, logged as ordinary evaluate runs."""
