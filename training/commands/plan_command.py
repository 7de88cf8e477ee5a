"""`twotower plan`: what a budget of compute is best spent on."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Plan a training run: sizes, data, batch, negatives, memory and time for a budget and the metric that you serve."""
    parser = argparse.ArgumentParser(prog="twotower plan", description=main.__doc__)
    parser.add_argument("--flops", type=float, required=True, help="training compute to spend, such as 1e18")
    parser.add_argument("--metric", help="the metric that you serve, such as ndcg@10; nothing is planned without it")
    parser.add_argument("--items", type=float, metavar="NUM", help="items of the catalogue")
    parser.add_argument("--events", type=float, metavar="NUM", help="training events that there are, repeats not counted")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="memory of one device, such as 80GB")
    parser.add_argument("--rate", type=float, metavar="FLOPS", help="FLOPs that your hardware does in a second of training")
    parser.add_argument("--law", type=Path, metavar="FILE", help="law.json of `twotower fit`, for the expected metric")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    args = parser.parse_args(argv)

    import msgspec

    from twotower.planning.law import read_law
    from twotower.planning.memory_needs import to_bytes
    from twotower.planning.plan_text import show
    from twotower.planning.planner import Ask, plan

    ask = Ask(
        flops=args.flops,
        metric=args.metric,
        items=args.items,
        events=args.events,
        gpu_memory=None if args.gpu_memory is None else to_bytes(args.gpu_memory),
        rate=args.rate,
    )
    made = plan(ask, None if args.law is None else read_law(args.law))
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(made)).decode())
    else:
        show(made)
    return 0
