"""Studies of known truth: drawn, answered and logged like real runs.

They try and check the analysis. Nothing here knows how an estimate is made.
"""
