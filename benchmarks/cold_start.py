"""Cold items on real data: a twentieth of Complete Journey's products is hidden until December, then must be found by content.

The bundle is trained with `--plant-cold 0.05` and judged with `--protocol cold-start`, beside likeness of content and popularity.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.report import DIRECTORY, Row, write_report
from benchmarks.training_rivals.corpus import Corpus, prepared, run_twotower
from training.evaluation.cold_start import SHOWN
from training.recipes.recipes import RECIPES

OUT = DIRECTORY / "cold_start"
SHARE = 0.05  # of the products that were bought in training


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, train, judge and report; 1 when the model finds fewer cold items than likeness of content does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=main.__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="demo")
    parser.add_argument("--minutes", type=float, help="time for training, instead of the recipe's own")
    parser.add_argument("--bundle", type=Path, help="judge this bundle, trained with --plant-cold, instead of training one")
    args = parser.parse_args(argv)
    corpus = prepared(OUT / "data", "complete-journey")
    bundle = args.bundle or trained(corpus, args.recipe, args.minutes)
    rows = rows_of(judged(corpus, bundle))
    write_report("cold_start", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def trained(corpus: Corpus, recipe: str, minutes: float | None) -> Path:
    """A bundle in a place of its own; one that is there already is refused by `twotower train`."""
    bundle = OUT / f"bundle-{recipe}"
    time = () if minutes is None else ("--minutes", str(minutes))
    run_twotower("train", recipe, *files(corpus), "--schema", corpus.schema, "--plant-cold", str(SHARE), *time, "--out", bundle)
    return bundle


def judged(corpus: Corpus, bundle: Path) -> dict[str, dict[str, float]]:
    """Every ranker's metrics."""
    asked = ["evaluate", "--protocol", "cold-start", "--json", "--bundle", bundle, *files(corpus)]
    told = subprocess.run([sys.executable, "-m", "twotower.cli", *asked], check=True, stdout=subprocess.PIPE, text=True).stdout
    rankers: dict[str, dict[str, float]] = json.loads(told)["rankers"]
    return rankers


def files(corpus: Corpus) -> list[str | Path]:
    """The corpus, as both commands take it."""
    signals: list[str | Path] = ["--signals", corpus.signals] if corpus.signals else []
    return ["--events", corpus.events, "--items", corpus.items, *signals]


def rows_of(rankers: dict[str, dict[str, float]]) -> list[Row]:
    """Every shown metric of every ranker. The model must find no fewer cold items, new to their user, than likeness does."""
    bounds = {f"model_{name}": rankers["content_knn"][name] for name in ("cold_unseen_recall@10", "cold_unseen_recall@100")}
    rows = []
    for ranker, metrics in rankers.items():
        for name in [n for n in SHOWN if n in metrics]:
            full = f"{ranker}_{name}"
            better: Literal["lower", "higher"] = "lower" if name.endswith("rank") else "higher"
            rows.append(Row(metric=full.replace("@", ""), value=metrics[name], unit="", better=better, must=bounds.get(full)))
    for name in ("cold_unseen_recall@10", "cold_unseen_recall@100"):
        for end in ("low", "high"):
            key = f"minus content_knn: {name}.{end}"
            metric = f"model_minus_content_knn_{name.replace('@', '')}_{end}"
            rows.append(Row(metric=metric, value=rankers["model"][key], unit="", better="higher"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
