"""A figure as an SVG element to be put into an HTML page, in the page's own colours."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.figures.style import ACCENT, BAND, FAMILY_COLOURS, GREY, SETTINGS

# The figures' colours and the variables of report.css that stand for them on a light or dark page.
CSS_COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    GREY.lower(): "var(--grey)",
    BAND.lower(): "var(--band)",
    ACCENT.lower(): "var(--accent)",
    FAMILY_COLOURS["related"].lower(): "var(--related)",
    FAMILY_COLOURS["control"].lower(): "var(--control)",
}
_TIP, _HALO = "tip:", "halo"


def inline_svg(figure: Figure, key: str, label: str) -> str:
    """Draw a figure as an `<svg>` element with real text, hover texts and CSS colours.

    Args:
        figure: What to draw; halos around its texts become a CSS class.
        key: Unlike for every figure of a page; it starts each id within the element.
        label: What a screen reader says of the figure.

    Returns:
        The element, every text in it escaped. Colours not in CSS_COLOURS stay as they are.

    Raises:
        ValueError: If key is not made of letters, digits and hyphens.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
        raise ValueError(f"figure key {key!r}: use small letters, digits and hyphens")
    for text in figure.findobj(Text):
        if text.get_path_effects():  # drawn as outlines, not as text
            text.set_path_effects([])
            text.set_gid(_HALO)
    target = io.BytesIO()
    # Real text, not outlines of it.
    with SETTINGS, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(target, format="svg", metadata={"Date": None}, transparent=True)
    root = ET.fromstring(target.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    _without_namespaces(root)
    _unique_ids(root, key)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _css_style(element.get("style", "")))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ET.tostring(root, encoding="unicode")


def _without_namespaces(root: ET.Element) -> None:
    """Give tags and attributes plain names: in HTML an svg element needs no namespace."""
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.set(name.split("}")[-1], element.attrib.pop(name))


def _unique_ids(root: ET.Element, key: str) -> None:
    """Start every id with the key; tips become `<title>` elements, halos a class."""
    for element in list(root.iter()):
        name = element.attrib.pop("id", "")
        if name.startswith(_TIP):
            title = ET.Element("title")
            title.text = name.removeprefix(_TIP)
            element.insert(0, title)
            element.set("class", "tip")
        elif name == _HALO:
            element.set("class", _HALO)
        elif name and element.tag != "g":  # groups are never pointed at
            element.set("id", f"{key}-{name}")
        for attribute, value in element.attrib.items():
            if value.startswith("url(#"):
                element.set(attribute, value.replace("url(#", f"url(#{key}-"))
            elif attribute == "href":
                element.set(attribute, value.replace("#", f"#{key}-", 1))


def _css_style(style: str) -> str:
    """Put a style attribute into the page's colours and fonts."""
    style = re.sub(
        r"#[0-9a-fA-F]{6}", lambda m: CSS_COLOURS.get(m.group().lower(), m.group()), style
    )
    # Only the family's names are quoted or follow a size; the size and weight stay.
    return re.sub(r"(font: [^;']*?px) [^;]*", r"\1 system-ui, sans-serif", style)
