"""One banner: readings of others are never shown as measured by us, whatever prints or draws them."""

import pytest

from cwmp_cli.app import main
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_profiler.provenance import Provenance, banner

SAID = banner(Provenance.PUBLISHED, "nvml")


@pytest.fixture
def published(tmp_path):
    profile = load_profile("simulated-board")
    meter = profile.meter.model_copy(update={"name": "nvml", "provenance": Provenance.PUBLISHED})
    changed = profile.model_copy(update={"name": "p", "provenance": Provenance.PUBLISHED, "meter": meter})
    return save_profile(changed, tmp_path / "p.json")


def flat(text: str) -> str:
    return " ".join(text.split())


def test_show_says_published_on_its_second_line(published, capsys):
    assert main(["show", str(published)]) == 0
    assert capsys.readouterr().out.splitlines()[1].strip() == SAID


def test_costs_say_published(published, capsys):
    assert main(["costs", str(published), "--model", "cnn"]) == 0
    assert SAID in flat(capsys.readouterr().out)


def test_the_report_says_published(published, tmp_path):
    page = tmp_path / "p.html"
    assert main(["report", str(published), "--model", "none", "-o", str(page)]) == 0
    text = page.read_text()
    assert SAID in text
    assert 'class="banner published"' in text
    assert "measured by meter" not in text


def test_the_meter_of_others_cannot_be_calibrated_here(published, capsys):
    assert main(["calibrate", str(published), "--reference", "joulescope"]) == 1
    assert "others published" in capsys.readouterr().err
