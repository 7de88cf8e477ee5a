"""The four commands of docs/your-data.md, typed word by word: from the two CSV files of a shop to a service that answers.

They run in this process, because four of them would otherwise load torch four times. The training time alone is shortened.
"""

import csv
import random
import re
import shlex
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.documents import ROOT, blocks, sections
from tests.service.faults.processes import serving
from twotower.cli import main

KINDS = {
    "Fruit": ("Bananas", "Apples", "Pears", "Grapes"),
    "Bread": ("Rye bread", "Rolls", "Baguette", "Toast"),
    "Dairy": ("Whole milk", "Butter", "Yoghurt", "Café latte, cold"),
    "Household": ("Soap", "Sponges", "Candles", "Paper towels"),
}
MINUTES = ("--minutes 3", "--minutes 0.03")


def write_shop(directory: Path) -> None:
    """Orders and products as a small shop exports them, with what is wrong in real exports."""
    draw = random.Random(7)
    named = [(f"{name}, {size}", kind) for kind, names in KINDS.items() for name in names for size in "SML"]
    products = [(f"{4011 + n:05d}", name, kind) for n, (name, kind) in enumerate(named)]  # codes with a zero in front
    with (directory / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sku", "name", "category", "brand", "price", "listed_on"])
        for n, (sku, name, kind) in enumerate(products):
            price = "" if n % 17 == 3 else f"{draw.uniform(0.5, 9):.2f}"
            rows.writerow([sku, name, kind, draw.choice(["", "Private", "Acme"]), price, f"2024-0{1 + n % 9}-01"])
    with (directory / "orders.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order_id", "customer", "sku", "ordered_at", "price"])
        moment = datetime(2026, 1, 2, 9, 14)
        for order in range(400):
            moment += timedelta(minutes=draw.randint(5, 300))
            customer = "" if order % 60 == 1 else f"c-{order % 40}"  # a guest has no account
            kind = list(KINDS)[order % 4] if draw.random() < 0.8 else draw.choice(list(KINDS))
            mine = [sku for sku, _, of in products if of == kind]
            for sku in draw.sample(mine, draw.randint(1, 4)):
                bought = "99999" if order == 77 else sku
                rows.writerow([f"o-{1001 + order}", customer, bought, moment, f"{draw.uniform(0.5, 9):.2f}"])


@pytest.fixture
def typed() -> list[str]:
    """The commands of the section, in its order."""
    page = sections((ROOT / "docs" / "your-data.md").read_text())
    (section,) = [part for part in page if part.startswith("## Four commands")]
    return [line for block in blocks(section) if block.kind == "sh" for line in block.text.splitlines()]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that everything happens in."""
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> int:
    program, *arguments = shlex.split(line.replace(*MINUTES))
    assert program == "twotower"
    return main(arguments)


def test_two_csv_files_become_a_service_that_knows_the_customers_in_four_commands(
    typed: list[str], shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, train, embed, serve, load, ask = typed
    assert run(prepare) == 0
    said = capsys.readouterr().err
    assert f"next: {train}" in said.replace("  ", " ")
    assert re.search(r"warning  events: \d+ events .* will be left out: .*(?:user_id|customer)", said)
    assert "99999" in said, "an item that is not in the catalogue is named"
    assert run(train) == 0
    assert run(embed) == 0
    assert serve == "twotower serve --store store --port 8000"
    with serving(shop / "store", shop / "history.db") as server:
        assert run(load.replace("http://localhost:8000", server.address)) == 0
        assert "events are stored now, 0 were before" in capsys.readouterr().out
        assert run(load.replace("http://localhost:8000", server.address)) == 0
        assert "0 events are stored now" in capsys.readouterr().out
        (body,) = re.findall(r"-d '(.*)'", ask)
        answer = httpx.post(f"{server.address}/v1/recommend", content=body, headers={"content-type": "application/json"}).json()
    assert len(answer["items"]) == 3
    assert answer["events_used"] > 5
    assert all(item["metadata"]["name"] for item in answer["items"])
    assert all(item["item_id"].startswith("0") for item in answer["items"]), "codes keep their zeros"


@pytest.mark.parametrize(
    ("orders", "sentence"),
    [
        ("customer,sku\nc-1,04011\n", "no column looks like timestamp"),
        ("customer,sku,ordered_at\nc-1,04011,yesterday\nc-2,04011,today\n", "cannot be used"),
        (
            "customer,sku,ordered_at\n" + "".join(f"c,4011,2026-01-{day:02d}\n" for day in range(1, 21)),
            "do both files use the same ids",
        ),
        ("customer,sku,ordered_at\nc-1,04011,2026-01-02\n", "too few different times"),
    ],
)
def test_what_is_wrong_with_the_orders_is_said_by_the_first_command_and_training_refuses_it_too(
    typed: list[str], shop: Path, capsys: pytest.CaptureFixture[str], orders: str, sentence: str
) -> None:
    (shop / "orders.csv").write_text(orders)
    assert run(typed[0]) == 0
    said = capsys.readouterr().err
    assert sentence in said
    assert "next: twotower train" not in said
    assert run(typed[1]) == 2
    assert "twotower: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("customer,sku,ordered_at\n", "there is not one row"),
        ("customer,sku,ordered_at\nc-1,04011,2026-01-02\nc-2,04012\n", "line 3"),
        ("PK\x03\x04", "a zip or Excel file: unpack it, or save it as CSV"),
    ],
)
def test_a_file_of_orders_that_cannot_be_read_is_refused_in_a_sentence(
    typed: list[str], shop: Path, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    (shop / "orders.csv").write_text(content)
    assert run(typed[0]) == 2
    assert sentence in capsys.readouterr().err
    assert not (shop / "data").exists()
