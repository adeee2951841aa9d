"""Each module turns gains into rows of estimates.json."""
