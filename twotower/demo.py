"""`twotower demo`: from real purchases to a served model in minutes. It runs the commands that a user would run.

The stages meet only in files, so this module imports none of them: each step is a `twotower` subprocess.
"""

import argparse
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twotower.errors import EnvironmentProblem, TwoTowerError
from twotower.progress import CONSOLE, say
from twotower.provenance import environment
from twotower.terminal import TextTable, styled, visible

NUM_TIMED = 500  # sequential requests that the latency figures are measured on
NUM_HOUSEHOLDS = 50  # whose histories are sent to the service
READY_TIMEOUT_S = 60
HOUSEHOLD = "1001"  # the household whose recommendations are shown
SHOWN = 6  # recommendations printed per answer
Json = dict[str, Any]


def main(argv: list[str]) -> int:
    """Prepare real data, train, embed, serve, and ask for recommendations before and after one event."""
    parser = argparse.ArgumentParser(prog="twotower demo", description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="directory for everything made (default: build/demo)"
    )
    parser.add_argument("--once", action="store_true", help="exit after the calls instead of serving on")
    parser.add_argument("--minutes", type=float, default=3.0, help="training time (default: 3)")
    parser.add_argument("--port", type=int, default=0, help="port to serve on (default: 8000, or a free one with --once)")
    args = parser.parse_args(argv)
    seconds: dict[str, float] = {}
    out: Path = args.out
    data, bundle, store = out / "data", out / "bundle", out / "store"
    clear(out)
    with timed(seconds, "prepare"):
        command("prepare", "complete-journey", "--out", data)
    events, schema = data / "events.parquet", data / "schema.toml"
    inputs = ("--events", events, "--items", data / "items.parquet", "--signals", data / "signals.parquet")
    with timed(seconds, "train_and_evaluate"):
        command("train", "demo", *inputs, "--schema", schema, "--out", bundle, "--minutes", args.minutes)
    with timed(seconds, "embed"):
        embedded = json.loads(command("embed", "--bundle", bundle, *inputs, "--store", store, "--json"))
    port = args.port or (free_port() if args.once else 8000)
    with timed(seconds, "start_service"):
        server = start_service(store, port, out / "history.db", out / "service.log")
    try:
        answers = conversation(f"http://127.0.0.1:{port}", events, seconds)
        report = write_report(out, bundle, embedded, seconds, answers, peak_gib(server.pid))
        print_summary(report, port, out, serving=not args.once)
        if not args.once:
            say("The service keeps running; Ctrl-C stops it.")
            draw_map(bundle, inputs, store)
            server.wait()
    except KeyboardInterrupt:
        say("stopping")
    finally:
        stop(server)
    return 0


def clear(out: Path) -> None:
    """Remove the files of an earlier demo. A directory with other files is refused."""
    marker = out / ".twotower-demo"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise EnvironmentProblem(f"{out} holds other files: choose an empty --out")
    try:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        marker.touch()
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {out}: {error.strerror or error}. Choose another --out.") from error


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Measure how long a stage takes."""
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 2)


def command(*arguments: object) -> str:
    """Print and run a `twotower` command and return its output. A command that fails prints its own message."""
    shown = " ".join(str(a) for a in arguments)
    CONSOLE.print(styled(f"$ twotower {shown}", "bold"))
    line = [sys.executable, "-m", "twotower.cli", *map(str, arguments)]
    finished = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise TwoTowerError(f"`twotower {shown}` failed; its message is above")
    return finished.stdout


def start_service(store: Path, port: int, history: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `twotower serve` and wait until it is ready. Its output goes to `log`."""
    import httpx

    arguments = ["serve", "--store", str(store), "--port", str(port), "--history", f"sqlite:///{history.resolve()}"]
    CONSOLE.print(styled(f"$ twotower {' '.join(arguments)}", "bold"))
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, "-m", "twotower.cli", *arguments], stdout=file, stderr=file)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TwoTowerError(f"the service did not start:\n{log.read_text().strip()}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return server
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    stop(server)
    raise TwoTowerError(f"the service was not ready after {READY_TIMEOUT_S} s; see {log}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the service that was started."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def draw_map(bundle: Path, inputs: tuple[object, ...], store: Path) -> None:
    """Publish the release once more, with the map of the catalogue. The running service takes it over by itself."""
    say("The map of the catalogue is drawn now, for the playground. That takes a minute or two.")
    try:
        command("embed", "--bundle", bundle, *inputs, "--store", store, "--map")
    except TwoTowerError as error:
        say(f"the playground has no map: {error}")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def households(events: Path) -> dict[str, list[Json]]:
    """Histories of some households with 300 to 900 purchases each, oldest first, in the form that /v1/events takes."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts = pc.value_counts(pq.read_table(events, columns=["user_id"])["user_id"])
    regular = sorted(c["values"] for c in counts.to_pylist() if 300 <= c["counts"] <= 900)[:NUM_HOUSEHOLDS]
    if not regular:
        raise TwoTowerError(f"{events} has no household with 300 to 900 purchases")
    rows = pq.read_table(events, filters=[("user_id", "in", regular)]).sort_by("timestamp").to_pylist()
    histories: dict[str, list[Json]] = {user: [] for user in regular}
    for row in rows:
        histories[row["user_id"]].append(
            {
                "user_id": row["user_id"],
                "item_id": row["item_id"],
                "event_type": row["event_type"],
                "timestamp": int(row["timestamp"].timestamp() * 1000),
                "properties": {"price_paid": row["price_paid"], "store_id": row["store_id"]},
            }
        )
    return histories


def conversation(url: str, events: Path, seconds: dict[str, float]) -> Json:
    """Send histories, ask for recommendations, send one event, ask again; then time many requests."""
    import httpx

    histories = households(events)
    with httpx.Client(base_url=url, timeout=30) as client:
        with timed(seconds, "import_histories"):
            for history in histories.values():
                for start in range(0, len(history), 500):
                    ask(client, "/v1/events", {"events": history[start : start + 500]})
        user = HOUSEHOLD if HOUSEHOLD in histories else next(iter(histories))
        history = histories[user]
        now = history[-1]["timestamp"] + 86_400_000
        question = {"user_id": user, "timestamp": now, "num_results": SHOWN, "include_metadata": ["title"]}
        before = ask(client, "/v1/recommend", question)
        bought = before["items"][0]
        event = {"user_id": user, "item_id": bought["item_id"], "event_type": "purchase", "timestamp": now}
        accepted = ask(client, "/v1/events", {"events": [event]})
        question_after = question | {"timestamp": now + 600_000}
        after = ask(client, "/v1/recommend", question_after)
        with timed(seconds, "timed_requests"):
            latencies_ms = time_requests(client, histories)
    return {
        "user_id": user,
        "bought": bought,
        "requests": [question, {"events": [event]}, question_after],
        "before": before,
        "accepted": accepted,
        "after": after,
        "latency_ms": {
            "requests": len(latencies_ms),
            "p50": round(latencies_ms[len(latencies_ms) // 2], 2),
            "p99": round(latencies_ms[int(len(latencies_ms) * 0.99)], 2),
        },
    }


def ask(client: Any, path: str, body: Json) -> Json:
    """POST a body and return the answer; TwoTowerError when the status is no success."""
    response = client.post(path, json=body)
    if response.status_code >= 300:
        raise TwoTowerError(f"POST {path} answered {response.status_code}: {response.text[:500]}")
    answer: Json = response.json()
    return answer


def time_requests(client: Any, histories: dict[str, list[Json]]) -> list[float]:
    """Sorted latencies of sequential recommendations for the households in turn, as a client sees them."""
    users = list(histories)
    bodies = [
        {"user_id": user, "timestamp": histories[user][-1]["timestamp"] + 86_400_000, "num_results": 10}
        for user in (users[i % len(users)] for i in range(NUM_TIMED))
    ]
    latencies_ms = []
    for body in bodies:
        started = time.perf_counter()
        ask(client, "/v1/recommend", body)
        latencies_ms.append(1000 * (time.perf_counter() - started))
    return sorted(latencies_ms)


def peak_gib(running: int) -> float:
    """The peak memory of any stage: of those that have ended, and of the service, which runs as process `running`."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path(f"/proc/{running}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    serving = max((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), default=0)
    return round(max(ended, serving) / 2**20, 2)


def write_report(out: Path, bundle: Path, embedded: Json, seconds: dict[str, float], answers: Json, peak: float) -> Json:
    """Write every measured figure into report.json."""
    metrics = json.loads((bundle / "metrics.json").read_bytes())
    report: Json = {
        "seconds": seconds | {"training": round(metrics["training"]["seconds"], 2)},
        "parameters": metrics["parameters"],
        "data": metrics["data"],
        "quality": metrics["quality"],
        "items_embedded_per_s": round(embedded["embedded"] / embedded["embed_seconds"]),
        "latency_ms": answers["latency_ms"],
        "answers": {k: answers[k] for k in ("requests", "before", "accepted", "after")},
        "release": answers["after"]["release"],
        "peak_memory_gib": peak,
        **environment(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False))
    report |= {"bought": answers["bought"], "user_id": answers["user_id"]}
    return report


def print_summary(report: Json, port: int, out: Path, serving: bool) -> None:
    """Print quality beside the counters, speed, and the three calls with their answers."""
    test = report["quality"]["test"]
    table = TextTable(title=f"December's baskets, ranked among all {report['data']['items']:,} items")
    table.add_column("")
    for name in ("R@10", "NDCG@10", "MRR@10", "HR@10", "new R@10", "loss"):
        table.add_column(name, justify="right")
    for ranker in ("popularity", "personal_frequency", "model"):
        row = test[ranker]
        loss = f"{row['set_loss']:.2f}" if "set_loss" in row else "-"
        figures = [f"{row[m]:.3f}" for m in ("recall@10", "ndcg@10", "mrr@10", "hit_rate@10")]
        table.add_row(
            ranker.replace("_", " "), *figures, f"{row['unseen_recall@10']:.4f}", loss, style="bold" * (ranker == "model")
        )
    CONSOLE.print()
    CONSOLE.print(table)
    say("new R@10: items the household never bought, ranked among those; loss: nats per item of the basket, full catalogue")
    low, high = (test["model"][f"minus personal_frequency: recall@10.{end}"] for end in ("low", "high"))
    say(f"model minus personal frequency, R@10: 95 % interval {low:+.4f} to {high:+.4f} (households resampled)")
    share, latency = report["parameters"]["embedder_share"], report["latency_ms"]
    say(
        f"trained in {report['seconds']['training']:.0f} s; the embedder holds {share:.2%} of the parameters and embeds "
        f"{report['items_embedded_per_s']:,} items/s; /recommend p50 {latency['p50']} ms, p99 {latency['p99']} ms "
        f"({latency['requests']} sequential requests)"
    )
    first, told, second = report["answers"]["requests"]
    before = [i["item_id"] for i in report["answers"]["before"]["items"]]
    print_call(port, "/v1/recommend", first, "1. What will this household buy next?")
    print_items(report["answers"]["before"]["items"], [])
    print_call(port, "/v1/events", told, f"2. It buys the first of them, {title(report['bought'])}.")
    print_call(port, "/v1/recommend", second, "3. And now?")
    print_items(report["answers"]["after"]["items"], before)
    CONSOLE.print()
    say(f"every figure: {out / 'report.json'}")
    if serving:
        say(f"see it: {page(port, report['user_id'])} - the playground; change the history of this household and watch the list")


def page(port: int, user: str) -> str:
    """The address of the playground, opened on one household."""
    return f"http://127.0.0.1:{port}/?{urlencode({'user': user})}"


def print_call(port: int, path: str, body: Json, heading: str) -> None:
    """Print a call in the form that can be pasted into a shell."""
    CONSOLE.print(styled(f"\n{heading}", "bold"))
    say(f"curl -s http://127.0.0.1:{port}{path} -H 'Content-Type: application/json' -d '{json.dumps(body)}'")


def print_items(items: list[Json], before: list[str]) -> None:
    """Print items with their names, and mark those that are new or moved relative to `before`."""
    for rank, item in enumerate(items):
        if not before:
            mark = styled("  ")
        elif item["item_id"] not in before:
            mark = styled("+ ", "green")
        elif before.index(item["item_id"]) != rank:
            mark = styled("^ ", "green") if before.index(item["item_id"]) > rank else styled("v ", "yellow")
        else:
            mark = styled("  ")
        CONSOLE.print("   ", mark, visible(f"{item['score']:7.3f}  {item['item_id']:>9}  {title(item)}"), sep="")


def title(item: Json) -> str:
    """The item's title, or else its id."""
    return str((item.get("metadata") or {}).get("title") or item["item_id"]).capitalize()
