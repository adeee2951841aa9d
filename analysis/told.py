"""Names of runs, models and languages as messages tell them."""


def told(name: object) -> str:
    """A name as it stands, if it is short and all of it can be seen; else its beginning, quoted."""
    text = str(name)
    return text if len(text) <= 80 and text.isprintable() else f"{text!r:.80}"
