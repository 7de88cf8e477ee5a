import numpy as np
import pytest

from benchmarks.serving_rivals.bare_products import BareProducts, Product, numpy_product, torch_product
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.model.config import ModelConfig

SPEC = FeatureSpec(fields=(FieldSpec(name="event_type", kind="categorical"),))
CONFIG = ModelConfig(item_spec=SPEC, context_spec=SPEC, width=8, num_layers=3, num_heads=2, num_kv_heads=1, ffn_width=16)


def test_flops_are_those_of_every_layer_over_every_event() -> None:
    products = BareProducts.of(CONFIG, 4)
    of_weights = 8 * (8 + 2 * 4) + 8 * 8 + 8 * 2 * 16 + 16 * 8
    pairs = 1 + 2 + 3 + 4  # of a query and a key
    assert products.flops == 3 * 2 * 4 * of_weights
    assert products.all_flops - products.flops == 3 * 2 * 2 * 8 * pairs


@pytest.mark.parametrize("product", [torch_product, numpy_product])
def test_a_product_is_of_rows_with_weights(product: Product) -> None:
    rows, weights = BareProducts.of(CONFIG, 4).pairs[0]
    assert np.asarray(product(rows, weights)).tolist() == pytest.approx(rows @ weights.T, abs=1e-5)
    assert BareProducts.of(CONFIG, 4).gflops_per_s(product) > 0
