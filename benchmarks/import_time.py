"""How long starting takes, against the libraries that any Typer program imports.

Prints the median time of `import cwmp` and of `cwmp-profile --help` as ratios to `import typer, rich`, all measured in turns in
the same run. Aim: at most 2.
"""

import statistics
import subprocess
import sys
import time

ROUNDS = 15
CASES = {
    "import typer, rich": "import typer, rich",
    "import cwmp": "import cwmp",
    "cwmp-profile --help": "import sys; from cwmp_cli.app import main; sys.exit(main(['--help']))",
    "python -c pass": "pass",
}


def once(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    for code in CASES.values():
        once(code)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, code in CASES.items():
            times[name].append(once(code))
    reference = statistics.median(times["import typer, rich"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22} {median * 1e3:7.1f} ms   {median / reference:5.2f} x 'import typer, rich'")


if __name__ == "__main__":
    main()
