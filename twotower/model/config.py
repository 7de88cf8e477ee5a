"""The sizes of the two towers, a frozen record that is written into the bundle's config.json."""

import msgspec

from twotower.data.features import (
    EVENT_ORDER_WIDTH,
    EVENT_TIME_WIDTH,
    REQUEST_ORDER_WIDTH,
    REQUEST_TIME_WIDTH,
    FeatureSpec,
)
from twotower.data.window import PAGE, WINDOW

MODEL_VERSION = 2  # of the towers' layers; bundles of another version are refused


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to rebuild both towers around their weights."""

    item_spec: FeatureSpec
    context_spec: FeatureSpec  # its first field is event_type
    width: int = 128  # of vectors and of the residual stream
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2  # grouped-query attention (Ainslie et al. 2023)
    ffn_width: int = 344  # SwiGLU, 8/3 of the width in multiples of 8
    context_table_rows: int = 256
    repeat_hidden: int = 32
    repeat_rank: int = 8
    repeat_item_width: int = 16
    past_heads: int = 4  # of the attention over past items; 0 leaves it out
    past_key_width: int = 16  # of each head
    popularity_hidden: int = 64  # of the MLP that weighs popularity and signals
    num_popularity: int = 1  # popularity dimensions appended to every item vector
    embedder: str = "mlp"  # a name of `twotower.model.kinds`, or the user's own as module:Class
    table_rows: int = 512  # shared hash table of the embedder
    table_dim: int = 8
    embedder_hidden: int = 64
    window: int = WINDOW
    page: int = PAGE
    query_field: str | None = None  # the item feature whose words the queries of searches are read as; None reads no searches
    query_table_rows: int = 2048  # of the words of queries, in the contextualizer; there is no table without `query_field`
    clock: bool = True  # False: hour, weekday and season are not read, only gaps and order

    def __post_init__(self) -> None:
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ValueError(f"width {self.width} must split into {self.num_heads} heads of an even width")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads cannot share {self.num_kv_heads} key/value heads")
        if self.past_heads and self.width % self.past_heads:
            raise ValueError(f"width {self.width} must split into {self.past_heads} heads over past items")
        if self.query_field is not None and self.query_field not in [f.name for f in self.item_spec.fields if f.kind == "text"]:
            raise ValueError(f"query_field {self.query_field!r} is no text of the items")
        if self.window % self.page:
            raise ValueError(f"window {self.window} must be a multiple of page {self.page}")

    @property
    def embedder_input(self) -> int:
        """Width of the pooled fields and dense features of one item."""
        return len(self.item_spec.hashed) * self.table_dim + self.item_spec.dense_width

    @property
    def event_time_width(self) -> int:
        """Number of time features read of an event: all, or without a clock those of order and gaps."""
        return EVENT_TIME_WIDTH if self.clock else EVENT_ORDER_WIDTH

    @property
    def request_time_width(self) -> int:
        """Number of time features read of a request: all, or without a clock the gap alone."""
        return REQUEST_TIME_WIDTH if self.clock else REQUEST_ORDER_WIDTH

    @property
    def context_input(self) -> int:
        """Dense width of one event's context, its time features included."""
        return self.event_time_width + self.context_spec.dense_width
