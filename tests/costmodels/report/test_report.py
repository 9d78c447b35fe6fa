"""The report: one page that loads nothing, says its provenance, and opens in a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from sessions import simulated_file

from cwmp_cli.app import main
from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.files import load_profile, save_profile, shipped_profiles
from cwmp_costmodels.report.page import report_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Collects tags, attributes and text, and holds that every tag is closed."""

    VOID = {"meta", "br", "img", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return fit_sessions([simulated_file(folder / "m.jsonl")], name="page")


def test_the_page_is_well_formed_and_loads_nothing(fitted):
    page = Page(report_html(fitted))
    assert "script" not in page.seen
    assert "link" not in page.seen
    for tag, name, value in page.attributes:
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith("#"), (tag, name, value)
        if name == "data-label":
            assert value, "on a phone a cell stands beside the name of its column"
    assert page.seen.count("svg") == 3


def test_the_page_says_what_it_is_made_from(fitted):
    text = Page(report_html(fitted)).text
    assert "SIMULATED: no real device was measured" in text
    assert "Not validated" in text
    assert fitted.fit.measurements[0].sha256 in text
    for name, found in fitted.coefficients.items():
        assert name in text
        assert found.status in text


def test_every_point_has_a_residual_that_the_counts_give(fitted):
    """Mean predicted over mean read is what the coefficients say; in the simulation it is within a few percent."""
    assert len(fitted.fit.residuals) > 30
    assert {residual.family for residual in fitted.fit.residuals} == {"compute", "memory", "update"}
    assert all(abs(r.predicted_j / r.measured_j - 1) < 0.1 for r in fitted.fit.residuals)


def test_hostile_text_in_a_profile_stays_text(fitted):
    hostile = fitted.model_copy(update={"description": "<script>alert(1)</script>"})
    page = Page(report_html(hostile))
    assert "script" not in page.seen
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_every_shipped_profile_has_a_page_with_its_provenance(name):
    profile = load_profile(name)
    text = Page(report_html(profile)).text
    assert str(profile.provenance) in text.lower()


def test_the_verb_writes_the_page_with_the_costs_of_a_model(fitted, tmp_path, capsys):
    source = save_profile(fitted, tmp_path / "p.json")
    assert main(["report", str(source), "-o", str(tmp_path / "p.html"), "--model", "mlp"]) == 0
    text = Page((tmp_path / "p.html").read_text()).text
    assert "What updating mlp costs" in text
    absent = tmp_path / "absent" / "p.html"
    assert main(["report", str(source), "-o", str(absent), "--model", "none"]) == 1
    assert f"cannot write {absent}" in capsys.readouterr().err
    assert main(["report", "nowhere.json", "-o", str(tmp_path / "q.html")]) == 1
    assert not (tmp_path / "q.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1100])
def test_a_real_browser_shows_it_and_a_phone_needs_no_sideways_scroll(fitted, tmp_path, width):
    """The page is put into a frame of a phone's width by a page that reports how wide its content became."""
    (tmp_path / "p.html").write_text(report_html(fitted))
    probe = (
        f"<iframe id=f src=p.html style='width:{width}px;height:900px;border:0'></iframe><p id=o></p><script>"
        "f.onload=()=>{const d=f.contentDocument.documentElement;"
        "o.textContent='WIDE '+d.scrollWidth+' OF '+d.clientWidth+' FIGURES '+d.querySelectorAll('figure svg').length}"
        "</script>"
    )
    (tmp_path / "probe.html").write_text(probe)
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "probe.html").as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    wide, room, figures = map(int, re.search(r"WIDE (\d+) OF (\d+) FIGURES (\d+)", dom).groups())
    assert wide <= room
    assert figures == 3
