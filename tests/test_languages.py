"""Codes, names, scripts and genealogy, and that they are those of the pinned qwanqwa."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from analysis.analyze_run import is_kin
from analysis.gains.units import language_units
from xling.files.requirements import pinned_packages
from xling.languages import (
    SNAPSHOT,
    belebele_codes,
    family_of,
    get_language,
    shared_branches,
)
from xling.languages.make_table import format_snapshot, main

SEMITIC = ("semi1276", "afro1255")
ARABIC = ("arab1395", "arab1394", "cent2236", "west2786", *SEMITIC)
LINEAGES = {
    "arb_Arab": ARABIC,
    "arz_Arab": ("egyp1254", "egyp1251", *ARABIC),
    "apc_Arab": ("leva1239", *ARABIC),
    "acm_Arab": ("east2729", *ARABIC),
    "ars_Arab": ("nort3402", "arab1393", *ARABIC),
    "ary_Arab": ("magh1239", "west3017", "nort3191", *ARABIC),
    "mlt_Latn": ("malt1259", "magh1239", "west3017", "nort3191", *ARABIC),
    "heb_Hebr": ("hebr1246", "cana1267", "nort3165", "cent2236", "west2786", *SEMITIC),
    "amh_Ethi": ("amha1244", "sout3078", "ethi1244", "west2786", *SEMITIC),
    "tir_Ethi": ("ethi1244", "west2786", *SEMITIC),
    "jpn_Jpan": ("japa1258", "japa1256", "japo1237"),
    "kor_Hang": ("kore1284",),
    "fra_Latn": (
        *("glob1239", "macr1273", "cent2283", "oila1234", "gall1280", "nort3208", "shif1234"),
        *("west2813", "ital1285", "roma1334", "impe1234", "lati1263", "lati1262", "ital1284"),
        *("clas1257", "indo1319"),
    ),
    "eng_Latn": (
        *("macr1271", "merc1242", "late1254", "angl1265", "angl1264", "nort3175", "west2793"),
        *("nort3152", "germ1287", "clas1257", "indo1319"),
    ),
}  # fmt: skip
ARABIC_SOURCES = ["arb_Arab", "arz_Arab", "apc_Arab", "acm_Arab", "ars_Arab", "ary_Arab"]


def test_there_are_122_codes_and_each_resolves() -> None:
    codes = belebele_codes()
    assert len(codes) == len(set(codes)) == 122
    assert list(codes) == sorted(codes)
    for code in codes:
        language = get_language(code)
        assert language.name
        assert code == f"{language.iso639_3}_{language.script}"
        assert all(branch.name and branch.glottocode for branch in language.lineage)


def test_only_the_isolate_has_no_lineage() -> None:
    assert [code for code in belebele_codes() if not get_language(code).lineage] == ["eus_Latn"]


@pytest.mark.parametrize("code", LINEAGES)
def test_lineages_of_the_study_are_pinned(code: str) -> None:
    assert tuple(branch.glottocode for branch in get_language(code).lineage) == LINEAGES[code]


def test_semitic_languages_of_belebele() -> None:
    found = [
        code
        for code in belebele_codes()
        if family_of(code, source_languages=["arb_Arab"], branch="semi1276") != "control"
    ]
    assert found == [
        *("acm_Arab", "amh_Ethi", "apc_Arab", "arb_Arab", "arb_Latn", "ars_Arab", "ary_Arab"),
        *("arz_Arab", "heb_Hebr", "mlt_Latn", "tir_Ethi"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "name", "nearest"),
    [
        ("est_Latn", "Estonian", "Central Finnic"),
        ("grn_Latn", "Guarani", "Paraguay-Brazil Guarani"),
        ("zho_Hans", "Chinese", "Mandarinic"),
        ("zho_Hant", "Chinese", "Mandarinic"),
    ],
)
def test_macrolanguages_stand_where_their_member_does(code: str, name: str, nearest: str) -> None:
    assert get_language(code).name == name
    assert get_language(code).lineage[0].name == nearest


@pytest.mark.parametrize("branch", ["semi1276", "Semitic", "semitic"])
@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("ary_Arab", "source"),
        ("arb_Latn", "source"),  # Standard Arabic, in another script
        ("mlt_Latn", "related"),
        ("heb_Hebr", "related"),
        ("hau_Latn", "control"),
        ("jpn_Jpan", "control"),
        ("eus_Latn", "control"),
    ],
)
def test_family(code: str, family: str, branch: str) -> None:
    assert family_of(code, source_languages=ARABIC_SOURCES, branch=branch) == family


def test_all_of_belebele_has_four_related_languages_and_105_controls() -> None:
    families = {
        code: family_of(code, source_languages=ARABIC_SOURCES, branch="Semitic")
        for code in belebele_codes()
    }
    units = {
        family: set(
            language_units([code for code, of in families.items() if of == family]).values()
        )
        for family in ("source", "related", "control")
    }
    assert units["related"] == {"heb_Hebr", "amh_Ethi", "tir_Ethi", "mlt_Latn"}
    assert len(units["control"]) == 105
    assert [code for code in families if families[code] == "source"] == sorted(
        [*ARABIC_SOURCES, "arb_Latn"]
    )


@pytest.mark.parametrize("source", ["fra_Latn", "hau_Latn", "kor_Hang", "eus_Latn", "hin_Deva"])
def test_kin_of_a_source_share_its_outermost_family(source: str) -> None:
    def top(code: str) -> str:
        language = get_language(code)
        return language.lineage[-1].glottocode if language.lineage else language.iso639_3

    for code in belebele_codes():
        assert is_kin(code, [source]) is (code != source and top(code) == top(source)), code


def test_family_follows_the_branch() -> None:
    assert family_of("hau_Latn", source_languages=["arb_Arab"], branch="afro1255") == "related"
    assert family_of("heb_Hebr", source_languages=["arb_Arab"], branch="Arabic") == "control"
    assert family_of("mlt_Latn", source_languages=["arb_Arab"], branch="Arabic") == "related"
    assert family_of("kaz_Cyrl", source_languages=["tur_Latn"], branch="Turkic") == "related"


def test_a_source_outside_the_branch_is_an_error_that_lists_its_branches() -> None:
    with pytest.raises(ValueError, match=r"fra_Latn .*'Semitic'.*Romance \(roma1334\)"):
        family_of("heb_Hebr", source_languages=["arb_Arab", "fra_Latn"], branch="Semitic")
    with pytest.raises(ValueError, match="isolate"):
        family_of("heb_Hebr", source_languages=["eus_Latn"], branch="Semitic")
    with pytest.raises(ValueError, match="source_languages: none"):
        family_of("heb_Hebr", source_languages=[], branch="Semitic")


@pytest.mark.parametrize("code", ["arb", "", "arb-Arab", "arb_arab", "xxx_Latn"])
def test_an_unknown_code_is_an_error(code: str) -> None:
    with pytest.raises(ValueError, match=r"unknown language code .*belebele_codes\(\)"):
        get_language(code)


def test_an_unknown_code_names_close_ones() -> None:
    with pytest.raises(ValueError, match="Close to it: .*arb_Arab"):
        get_language("arb_Arb")


def test_shared_branches_put_maltese_nearer_than_hebrew_and_amharic() -> None:
    targets = ("mlt_Latn", "heb_Hebr", "amh_Ethi", "tir_Ethi", "fra_Latn")
    assert [shared_branches("arb_Arab", code) for code in targets] == [6, 4, 3, 3, 0]


@pytest.fixture(scope="module")
def generated() -> str:
    """What the generator writes now; qwanqwa takes seconds to load."""
    return format_snapshot()


@pytest.mark.slow
def test_the_snapshot_is_what_the_pinned_qwanqwa_gives(generated: str) -> None:
    assert json.loads(generated)["qwanqwa"] == pinned_packages()["qwanqwa"]
    assert SNAPSHOT.read_text(encoding="utf-8") == generated, (
        "languages.json is out of date; run: python -m xling.languages.make_table"
    )


def test_the_generator_rewrites_the_snapshot(
    generated: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("snapshot") / "languages.json"
    monkeypatch.setattr("xling.languages.make_table.SNAPSHOT", target)
    monkeypatch.setattr("xling.languages.make_table.format_snapshot", lambda: generated)
    main()
    assert target.read_bytes() == SNAPSHOT.read_bytes()


def test_the_snapshot_has_one_language_a_line_in_alphabetical_order() -> None:
    lines = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    codes = [line[1:9] for line in lines if '"lineage"' in line]
    assert codes == sorted(codes) == list(belebele_codes())


def test_languages_are_known_without_qwanqwa_in_milliseconds() -> None:
    script = (
        "import sys, time; from xling.languages import get_language; start = time.process_time(); "
        "get_language('arb_Arab'); print('qq' in sys.modules, time.process_time() - start)"
    )
    # A fresh process: this one has loaded qwanqwa already.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded, seconds = done.stdout.split()
    assert loaded == "False"
    assert float(seconds) < 0.1
