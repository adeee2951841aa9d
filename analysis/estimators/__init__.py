"""D, I and their relatives: each module makes rows of estimates.json from gains.

Every number has a sampling unit and a status. Nothing here reads files, draws or writes sentences.
"""
