"""The benchmark of published readings: it says where they are, passes over sets that are missing, and judges those that are there."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "published.py")]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def test_without_data_it_says_where_to_get_it():
    found = run()
    assert found.returncode == 0
    assert "https://github.com/te42kyfo/gpu-benches" in found.stdout
    assert found.stdout.count("https://") >= 9


@pytest.mark.slow
def test_a_roofline_of_known_physics_is_fitted_and_missing_sets_are_named(tmp_path):
    folder = tmp_path / "gpu-benches-roofline"
    folder.mkdir()
    draw = random.Random(1)
    lines = ["file,gpu_index,its,flop_per_byte,GBps,GFlops,MHz,watts_max,celsius"]
    for its in (0, 4, 8, 16, 24, 32, 48, 64, 96, 128):
        for gpu in range(4):
            rate = min(1400, 18000 / ((1 + its) / 4)) * draw.gauss(1, 0.003)
            watts = (70 + 0.12 * rate + 0.005 * rate * (1 + its) / 4) * draw.gauss(1, 0.01)
            lines.append(f"alex_a100_40,{gpu},{its},{(1 + its) / 4},{rate},{rate * (1 + its) / 4},1410,{watts},50")
    (folder / "points.csv").write_text("\n".join(lines))
    found = run("--data", str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert "NVIDIA A100, 40 GB, 40 of 40 rows" in found.stdout
    assert "kepler-model-db is missing" in found.stdout
    assert "0 wanted lines missed" in found.stdout
