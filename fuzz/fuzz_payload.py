"""Coverage-guided fuzzing of the payload decoder.

    pip install atheris
    python fuzz/fuzz_payload.py fuzz/corpus/payload -max_total_time=300 -rss_limit_mb=1024 -timeout=5

libFuzzer ends with an error on a crash, a hang (-timeout) or too much memory (-rss_limit_mb). `--seed-corpus` writes the
seeds that the corpus starts from.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
CORPUS = Path(__file__).parent / "corpus" / "payload"


def main() -> None:
    """Write the seeds, or fuzz until libFuzzer stops."""
    if sys.argv[1:] == ["--seed-corpus"]:
        from target import seeds

        CORPUS.mkdir(parents=True, exist_ok=True)
        for name, content in seeds().items():
            (CORPUS / name).write_bytes(content)
        return
    import atheris
    import torch  # noqa: F401 - not instrumented: only our own code guides the search

    with atheris.instrument_imports(include=["cwmp_selector"]):
        from target import check

        import cwmp_selector.payload.decode  # imported late by from_bytes, and would then stay uninstrumented
        import cwmp_selector.payload.positions  # noqa: F401
    atheris.Setup(sys.argv, lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
