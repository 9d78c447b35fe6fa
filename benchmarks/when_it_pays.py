"""When choosing by cost pays, and when not: joules that Top-K needs for what CWMP retains, over CWMP's, drawn over how unlike costs are.

Costs are of a device of two classes (literature: `two-class:RATIO`), the gradient entries a Laplace distribution of one scale, the model a CNN of
830,218 parameters, 97% of them in one linear layer. Nothing is measured: it is the analysis of docs/theory.md, which
`benchmarks/gain_predicted_vs_found.py` holds against the selector. Takes about a minute; `-o` writes the picture of the README.

    python benchmarks/when_it_pays.py -o docs/img/when-it-pays.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cwmp
from cwmp_costmodels.networks.builtin import cnn

RATIOS = (1.5, 3, 10, 30, 100)
LINKS = (None, "802154-cc2420", "wifi", "lte")
NAMES = {None: "no radio", "802154-cc2420": "802.15.4", "wifi": "Wi-Fi", "lte": "LTE"}
BUDGET = 0.001
ENTRIES = 830_218
WORTH_IT = 1.02


def gains() -> dict[str | None, list[float]]:
    """Return the ratio of joules at equal retained value, by link and cost ratio."""
    model = cnn(width=32, hidden=256)
    found: dict[str | None, list[float]] = {}
    for link in LINKS:
        scenario = cwmp.Scenario(radio=link, local_steps=10, index_code="rice")
        for ratio in RATIOS:
            costs = cwmp.layer_costs(cwmp.load_profile(f"two-class:{ratio:g}"), model, scenario)
            found.setdefault(link, []).append(cwmp.expected_gain(costs, k=BUDGET * ENTRIES).energy_ratio)
    return found


def draw(found: dict[str | None, list[float]], target: Path) -> None:
    """Draw one line per link."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(0.5, WORTH_IT, color="0.9")
    axes.text(RATIOS[0], WORTH_IT * 0.93, "use Top-K", va="top", color="0.35")
    for link, ratios in found.items():
        axes.plot(RATIOS, ratios, marker="o", label=NAMES[link])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="joules of an entry in the dear layer, over one in the others",
        ylabel="joules: Top-K / CWMP",
        title=f"Joules for the same retained gradient at Top-K's {BUDGET:.1%} (literature costs)",
        ylim=(0.85, 3.0),
    )
    axes.set_xticks(RATIOS, [f"{ratio:g}x" for ratio in RATIOS])
    ticks = [1, 1.5, 2, 3]
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.legend(title="link", frameon=False)
    figure.savefig(target, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    found = gains()
    print(f"{'link':>10}  " + "  ".join(f"{ratio:>5g}x" for ratio in RATIOS))
    for link, ratios in found.items():
        print(f"{NAMES[link]:>10}  " + "  ".join(f"{ratio:6.2f}" for ratio in ratios))
    if arguments.output:
        draw(found, arguments.output)


if __name__ == "__main__":
    main()
