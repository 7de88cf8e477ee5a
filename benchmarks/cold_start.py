"""Cold items on real data: the events of 5 % of Complete Journey's products before December are hidden from training.

The bundle is trained with `--plant-cold 0.05` and evaluated with `--protocol cold-start`, beside content similarity and
popularity.
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
    """Prepare, train, evaluate and report. Exit status 1 when the model finds fewer cold items than content similarity."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=main.__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="demo")
    parser.add_argument("--minutes", type=float, help="training time, instead of the recipe's limit")
    parser.add_argument("--bundle", type=Path, help="evaluate this bundle, trained with --plant-cold, instead of training one")
    args = parser.parse_args(argv)
    corpus = prepared(OUT / "data", "complete-journey")
    bundle = args.bundle or trained(corpus, args.recipe, args.minutes)
    rows = rows_of(evaluated(corpus, bundle))
    write_report("cold_start", rows)
    return 0 if all(row.meets_must for row in rows) else 1


def trained(corpus: Corpus, recipe: str, minutes: float | None) -> Path:
    """Train a bundle. `twotower train` refuses when it exists already."""
    bundle = OUT / f"bundle-{recipe}"
    time = () if minutes is None else ("--minutes", str(minutes))
    run_twotower("train", recipe, *files(corpus), "--schema", corpus.schema, "--plant-cold", str(SHARE), *time, "--out", bundle)
    return bundle


def evaluated(corpus: Corpus, bundle: Path) -> dict[str, dict[str, float]]:
    """The metrics of every ranker."""
    arguments = ["evaluate", "--protocol", "cold-start", "--json", "--bundle", bundle, *files(corpus)]
    command = [sys.executable, "-m", "twotower.cli", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rankers: dict[str, dict[str, float]] = json.loads(output)["rankers"]
    return rankers


def files(corpus: Corpus) -> list[str | Path]:
    """The files of the corpus as arguments of both commands."""
    signals: list[str | Path] = ["--signals", corpus.signals] if corpus.signals else []
    return ["--events", corpus.events, "--items", corpus.items, *signals]


def rows_of(rankers: dict[str, dict[str, float]]) -> list[Row]:
    """The metrics of every ranker. The model must find at least as many new cold items as content similarity does."""
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
