"""Makes languages.json, which xling.languages reads, from qwanqwa.

qwanqwa's database takes seconds to load, and every command checks language codes. So the part
that is needed is written down once: ``python -m xling.languages.make_table``, again whenever the
pin of qwanqwa changes. A test checks that the file and the pinned qwanqwa agree.
"""

from __future__ import annotations

import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

from xling.languages.languages import SNAPSHOT

if TYPE_CHECKING:
    import qq

CODES = """
acm_Arab afr_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng
azj_Latn bam_Latn ben_Beng ben_Latn bod_Tibt bul_Cyrl cat_Latn ceb_Latn ces_Latn ckb_Arab dan_Latn
deu_Latn ell_Grek eng_Latn est_Latn eus_Latn fin_Latn fra_Latn fuv_Latn gaz_Latn grn_Latn guj_Gujr
hat_Latn hau_Latn heb_Hebr hin_Deva hin_Latn hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn
isl_Latn ita_Latn jav_Latn jpn_Jpan kac_Latn kan_Knda kat_Geor kaz_Cyrl kea_Latn khk_Cyrl khm_Khmr
kin_Latn kir_Cyrl kor_Hang lao_Laoo lin_Latn lit_Latn lug_Latn luo_Latn lvs_Latn mal_Mlym mar_Deva
mkd_Cyrl mlt_Latn mri_Latn mya_Mymr nld_Latn nob_Latn npi_Deva npi_Latn nso_Latn nya_Latn ory_Orya
pan_Guru pbt_Arab pes_Arab plt_Latn pol_Latn por_Latn ron_Latn rus_Cyrl shn_Mymr sin_Latn sin_Sinh
slk_Latn slv_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn
swh_Latn tam_Taml tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tsn_Latn tso_Latn tur_Latn ukr_Cyrl
urd_Arab urd_Latn uzn_Latn vie_Latn war_Latn wol_Latn xho_Latn yor_Latn zho_Hans zho_Hant zsm_Latn
zul_Latn
"""

# These three are macrolanguages of ISO 639-3, which have no place in Glottolog's tree; the
# member that Belebele's text is in has one.
MEMBERS = {"est": "ekk", "grn": "gug", "zho": "cmn"}


def read_languages() -> dict[str, dict[str, Any]]:
    """Read each language's name, ISO 639-3 code, script and lineage from qwanqwa; takes seconds."""
    import qq

    database = qq.Database.load()
    return {code: _describe(database, code) for code in sorted(CODES.split())}


def format_snapshot() -> str:
    """Return the text of languages.json: JSON with one language a line, by code."""
    header = json.dumps({"qwanqwa": importlib.metadata.version("qwanqwa")})[1:-1]
    lines = ",\n".join(
        f"{json.dumps(code)}: {json.dumps(language, ensure_ascii=False)}"
        for code, language in read_languages().items()
    )
    return f'{{\n{header},\n"languages": {{\n{lines}\n}}\n}}\n'


def _describe(database: qq.Database, code: str) -> dict[str, Any]:
    import qq

    iso639_3, script = code.split("_")
    named = database.get(iso639_3, id_type=qq.IdType.ISO_639_3)
    placed = database.get(MEMBERS.get(iso639_3, iso639_3), id_type=qq.IdType.ISO_639_3)
    return {
        "name": named.name or iso639_3,
        "iso639_3": iso639_3,
        "script": script,
        "lineage": [[node.name or "", node.glottocode or ""] for node in placed.family_tree],
    }


def main() -> None:
    """Rewrite languages.json."""
    SNAPSHOT.write_text(format_snapshot(), encoding="utf-8")


if __name__ == "__main__":
    main()
