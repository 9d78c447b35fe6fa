"""Rated powers of CPU packages, as their makers state them: what the `tdp` meter estimates from.

Intel: TDP or Processor Base Power; AMD: Default TDP. Every row (watts and threads) was compared on 2026-11-22 with copies of the
makers' own tables: Intel ARK and AMD's processor specifications as exported into github.com/felixsteinke/cpu-spec-dataset (July
2023) and, for models after that and as a second look at those before, into github.com/mlco2/codecarbon (2025; its Intel table
has no threads). The makers' pages themselves were not opened. A model on which these copies are silent or differ is not listed:
it is unknown, and the user gives `--tdp-w`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RatedPower:
    """Rated power of one package.

    Attributes:
        model: Normalised model name.
        power_w: Rated power of the package in watts.
        threads: Hardware threads of the package.
        source: Where the figure is stated.
    """

    model: str
    power_w: float
    threads: int
    source: str


_ARK = "Intel ARK, product specifications, 'TDP' / 'Processor Base Power' of {model}"
_AMD = "AMD product specifications, 'Default TDP' of {model}"

_GROUPS: tuple[tuple[str, str, str], ...] = (
    (
        "Intel Core {}",
        _ARK,
        """
        i5-6600K 91 4, i7-6700K 91 8, i7-6700 65 8, i5-7600K 91 4, i7-7700K 91 8, i7-7700 65 8, i7-4770K 84 8, i7-4790K 88 8,
        i5-8250U 15 8, i7-8550U 15 8, i5-8265U 15 8, i7-8565U 15 8, i5-8400 65 6, i5-8600K 95 6, i7-8700 65 12, i7-8700K 95 12,
        i7-8750H 45 12, i7-9750H 45 12, i7-10750H 45 12, i7-10875H 45 16, i5-9600K 95 6, i7-9700K 95 8,
        i9-9900K 95 16, i5-10600K 125 12, i7-10700 65 16, i7-10700K 125 16, i9-10900K 125 20, i5-11600K 125 12,
        i7-11700K 125 16, i9-11900K 125 16, i5-12600K 125 16, i7-12700K 125 20, i9-12900K 125 24, i7-12700H 45 20,
        i9-12900H 45 20, i5-1240P 28 16, i7-1260P 28 16, i5-1340P 28 16, i7-1360P 28 16, i7-13700H 45 20, i5-13600K 125 20,
        i7-13700K 125 24, i9-13900K 125 32
        """,
    ),
    (
        "Intel Xeon E5-{}",
        _ARK,
        """
        2620 v3 85 12, 2630 v3 85 16, 2650 v3 105 20, 2670 v3 120 24, 2680 v3 120 24, 2690 v3 135 24, 2620 v4 85 16,
        2630 v4 85 20, 2640 v4 90 20, 2650 v4 105 24, 2680 v4 120 28, 2690 v4 135 28, 2699 v4 145 44
        """,
    ),
    (
        "Intel Xeon {}",
        _ARK,
        """
        Silver 4110 85 16, Silver 4114 85 20, Silver 4210 85 20, Silver 4214 85 24, Silver 4216 100 32, Silver 4310 120 24,
        Silver 4314 135 32, Gold 6130 125 32, Gold 6132 140 28, Gold 6140 140 36, Gold 6148 150 40, Gold 6154 200 36,
        Gold 6230 125 40, Gold 6240 150 36, Gold 6248 150 40, Gold 6252 150 48, Gold 6226R 150 32, Gold 6248R 205 48,
        Gold 6330 205 56, Gold 6338 205 64, Gold 6348 235 56, Platinum 8160 150 48, Platinum 8168 205 48, Platinum 8176 165 56,
        Platinum 8180 205 56, Platinum 8260 165 48, Platinum 8268 205 48, Platinum 8280 205 56, Platinum 8358 250 64,
        Platinum 8360Y 250 72, Platinum 8368 270 76, Platinum 8380 270 80, Platinum 8480+ 350 112, Platinum 8490H 350 120
        """,
    ),
    (
        "AMD Ryzen {}",
        _AMD,
        """
        5 3600 65 12, 7 3700X 65 16, 7 3800X 105 16, 9 3900X 105 24, 9 3950X 105 32, 5 5600X 65 12, 7 5800X 105 16,
        7 5800X3D 105 16, 9 5900X 105 24, 9 5950X 105 32, 5 7600X 105 12, 7 7700X 105 16, 7 7800X3D 120 16, 9 7900X 170 24,
        9 7950X 170 32, 5 9600X 65 12, 7 9700X 65 16, 9 9900X 120 24, 9 9950X 170 32, Threadripper 2990WX 250 64,
        Threadripper 3960X 280 48, Threadripper 3970X 280 64, Threadripper 3990X 280 128, Threadripper PRO 5995WX 280 128
        """,
    ),
    (
        "AMD EPYC {}",
        _AMD,
        """
        7551 180 64, 7601 180 64, 7302 155 32, 7402 180 48, 7452 155 64, 7502 180 64, 7542 225 64, 7552 200 96, 7642 225 96,
        7702 200 128, 7742 225 128, 7H12 280 128, 7313 155 32, 7343 190 32, 7413 180 48, 7443 200 48, 7453 225 56, 7513 200 64,
        7543 225 64, 7643 225 96, 7663 240 112, 7713 225 128, 7763 280 128, 9124 200 32, 9334 210 64, 9354 280 64,
        9374F 320 64, 9454 290 96, 9474F 360 96, 9554 360 128, 9654 360 192, 9754 360 256, 9655 400 192, 9755 500 256
        """,
    ),
)


def _table() -> dict[str, RatedPower]:
    rows: dict[str, RatedPower] = {}
    for pattern, source, text in _GROUPS:
        for row in text.split(","):
            *name, power_w, threads = row.split()
            model = pattern.format(" ".join(name))
            rows[model.casefold()] = RatedPower(model, float(power_w), int(threads), source.format(model=model))
    return rows


_ROWS = _table()

_NOISE = re.compile(
    r"\((?:r|tm)\)|\bCPU\b|\bProcessor\b|@.*$|^\d+th Gen\b|\b\d+-Core\b|\bwith Radeon.*$|\bw/ Radeon.*$", re.IGNORECASE
)


def normalised(model: str) -> str:
    """Return a CPU's model name as makers list it: `Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz` is `Intel Xeon Gold 6148`."""
    return " ".join(_NOISE.sub(" ", model).split())


def rated_power(model: str) -> RatedPower | None:
    """Return the rated power of the CPU that calls itself `model` (as in `/proc/cpuinfo`), or None if it is not listed."""
    return _ROWS.get(normalised(model).casefold())
