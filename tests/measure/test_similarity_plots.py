"""Figures of a similarity: files that open, the same for the same numbers."""

import struct
import sys
from xml.etree import ElementTree

import pytest
from similarities import made

from surgeon.errors import SurgeonError
from surgeon.measure.plots import check_plots, similarity_figure

SVG = "{http://www.w3.org/2000/svg}"


def test_png_and_svg_are_the_same_for_the_same_numbers() -> None:
    pytest.importorskip("matplotlib")
    found = made([0.9, 0.95, None, 0.99], [0.8, 0.85, 0.9, 0.7], model="ORG/a$b$c_<1>")
    files = similarity_figure(found)
    assert files == similarity_figure(found)
    assert files.keys() == {"png", "svg"}
    assert files["png"][:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", files["png"][16:24])
    assert (width, height) == (1120, 640)  # inches x 200
    root = ElementTree.fromstring(files["svg"])
    assert root.tag == f"{SVG}svg"
    assert not list(root.iter("{http://purl.org/dc/elements/1.1/}date"))
    colours = files["svg"].decode()
    assert all(colour in colours for colour in ("#0072b2", "#d55e00", "#3a3a3a"))


def test_a_model_of_one_layer_can_be_drawn() -> None:
    pytest.importorskip("matplotlib")
    assert similarity_figure(made([0.9], [None]))["png"]


def test_without_matplotlib_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SurgeonError, match=r"pip install 'surgeon\[plots\]'"):
        check_plots()
