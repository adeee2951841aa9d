"""What the report says of its methods: sampling units and the works they come from."""

from __future__ import annotations

SAMPLING_UNITS = (
    (
        "languages",
        "to other languages of the same kinds, for these models and these questions; the primary "
        "unit, since the question is about families of languages",
    ),
    ("models", "to other models like these, for these languages and these questions"),
    (
        "languages and models",
        "to other models and other languages at once (crossed); the widest claim, and the widest "
        "interval",
    ),
    (
        "items",
        "to other questions and passages of this kind, for exactly these models and languages; "
        "the narrowest claim",
    ),
    (
        "cells",
        "to nothing in particular: the cells of one model or one language are not independent of "
        "each other, so this interval is too narrow",
    ),
)
"""Each sampling unit, and what its interval generalises to."""

REFERENCES = (
    ("Baayen, Davidson & Bates 2008", "crossed random effects of subjects and items"),
    ("Card et al. 2020", "power of comparisons in NLP"),
    ("Chiolero et al. 2013", "regression to the mean in change against baseline"),
    ("Clark 1973", "language as a fixed effect is a fallacy: quasi-F over two samples"),
    ("Fagerland, Lydersen & Laake 2013", "tests and intervals for paired binomial proportions"),
    ("Imai, Keele & Yamamoto 2010", "mediation and its assumptions"),
    ("Lakens 2017", "equivalence by two one-sided tests"),
    ("Loftus 1978", "interactions that a change of scale removes"),
    ("Miller 2024", "error bars on model evaluations, clustered by passage"),
    ("Newcombe 1998", "interval of a difference of paired proportions"),
    ("Tu & Gilthorpe 2007", "change and baseline share a measurement"),
    ("Wagenmakers et al. 2012", "removable interactions, continued"),
    ("Zheng et al. 2024", "language models prefer some option positions"),
)
"""Works, and what is taken from each."""
