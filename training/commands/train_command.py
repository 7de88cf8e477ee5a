"""`twotower train RECIPE`: events, items and schema -> model bundle."""

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.device_option import add_device_option

if TYPE_CHECKING:
    from training.recipes.config import TrainConfig

CHANGES = (
    "embedder",
    "embedder_share",
    "evaluations",
    "patience",
    "plant_cold",
    "prefetch",
    "precision",
    "schedule",
    "sharding",
    "search_share",
    "seed",
)  # options named as the config's field


def main(argv: list[str]) -> int:
    """Train a recipe and write the bundle."""
    from training.recipes.recipes import RECIPES

    parser = argparse.ArgumentParser(prog="twotower train", description=main.__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--events", type=Path, required=True, help="Parquet file, or a directory of them")
    parser.add_argument("--items", type=Path, required=True, help="Parquet file, or a directory of them")
    parser.add_argument("--schema", type=Path, required=True, help="schema.toml")
    parser.add_argument("--signals", type=Path, help="Parquet file, or a directory of them; needed when the schema names signals")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="directory to write; must not exist")
    parser.add_argument("--run", type=Path, metavar="DIR", help="directory for journal and checkpoints (default: BUNDLE.run)")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the run directory, if any")
    parser.add_argument("--minutes", type=float, help="training time, instead of the recipe's limit")
    parser.add_argument(
        "--flops", type=float, help="training compute to spend, for from_budget and the recipes that compare with it"
    )
    parser.add_argument(
        "--patience", type=int, metavar="NUM", help="stop a stage after so many evaluations without a better one; keep the best"
    )
    parser.add_argument("--evaluations", type=int, metavar="NUM", help="how often to evaluate on the validation part")
    parser.add_argument("--schedule", choices=("cosine", "constant"), help="of the learning rate, after the warm-up")
    parser.add_argument("--seed", type=int, help="seed of all random numbers, instead of the recipe's")
    parser.add_argument("--embedder", metavar="KIND", help="mlp, tab_transformer, bag, or your own as module:Class")
    parser.add_argument(
        "--embedder-share", type=float, metavar="SHARE", help="the embedder's share of all parameters, instead of the recipe's"
    )
    parser.add_argument(
        "--plant-cold", type=float, metavar="SHARE", help="hide a share of the items, for the protocol cold-start"
    )
    what = "share of the queries that follow a search made up from the words of items; only for logs without searches"
    parser.add_argument("--search-share", type=float, metavar="SHARE", help=what)
    parser.add_argument("--prefetch", type=int, metavar="BATCHES", help="draw so many batches ahead in a thread; for GPUs")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="precision of the arithmetic; bf16 needs a GPU")
    add_device_option(parser, default=None, told_default="auto where there is a GPU, else cpu")
    parser.add_argument("--sharding", choices=("ddp", "fsdp"), help="under torchrun: every rank holds all weights, or a part")
    args = parser.parse_args(argv)

    from training.run.run import run
    from twotower.data.schema import load_schema
    from twotower.progress import say

    config = configure(args)
    run(config, args.events, args.items, load_schema(args.schema), args.out, args.run, args.resume, args.signals, args.device)
    say(f"bundle written to {args.out}")
    signals = f" --signals {args.signals}" if args.signals else ""
    say(f"next: twotower embed --bundle {args.out} --items {args.items} --events {args.events}{signals} --store STORE")
    return 0


def configure(args: argparse.Namespace) -> "TrainConfig":
    """The recipe's config with the changes of the command line. ValueError for options that the recipe does not take."""
    from msgspec.structs import replace

    from training.recipes.recipes import RECIPES
    from twotower.model.kinds import embedder_class
    from twotower.planning.compute_optimal import plan_lines
    from twotower.progress import say

    recipe = RECIPES[args.recipe]
    takes = inspect.signature(recipe).parameters
    given = {name: value for name in ("minutes", "flops") if (value := getattr(args, name)) is not None}
    if unknown := [name for name in given if name not in takes]:
        raise ValueError(f"the recipe {args.recipe} takes no --{unknown[0]}; it takes {', '.join(f'--{name}' for name in takes)}")
    config = recipe(**given)
    for line in plan_lines(args.flops) if args.flops is not None else []:
        say(f"  {line}")
    changes = {name: value for name in CHANGES if (value := getattr(args, name)) is not None}
    config = replace(config, **changes)
    embedder_class(config.embedder)
    return config
