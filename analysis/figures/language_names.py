"""Languages as figures and tables name them: in English, by script where that is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from xling.languages import belebele_codes, get_language

# ISO 15924, English names; of the scripts that Belebele's languages with two scripts are in.
_SCRIPTS = {
    "Arab": "Arabic", "Beng": "Bengali", "Deva": "Devanagari", "Hans": "simplified",
    "Hant": "traditional", "Latn": "Latin", "Sinh": "Sinhala",
}  # fmt: skip


def language_names(codes: Collection[str]) -> dict[str, str]:
    """Return the English name of each language, with its script where two share a name.

    Args:
        codes: Belebele's codes, those that stand beside each other.

    Returns:
        Code to name, such as `Nepali (Latin)` beside `Nepali (Devanagari)`, and `Hausa`.

    Raises:
        ValueError: If a code is not one of Belebele's.
    """
    known = {code: get_language(code) for code in codes}
    count = Counter(language.name for language in known.values())
    return {
        code: language.name
        if count[language.name] == 1
        else f"{language.name} ({_SCRIPTS.get(language.script, language.script)})"
        for code, language in known.items()
    }


def top_family_names(codes: Collection[str]) -> dict[str, str]:
    """Return the name of each language's outermost Glottolog family; an isolate is its own.

    Codes that are not Belebele's are left out.
    """
    known = {code: get_language(code) for code in codes if code in belebele_codes()}
    return {
        code: language.lineage[-1].name if language.lineage else language.name
        for code, language in known.items()
    }
