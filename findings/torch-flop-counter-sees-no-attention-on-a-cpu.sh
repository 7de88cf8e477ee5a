#!/bin/sh
# torch 2.13.0: torch.utils.flop_counter.FlopCounterMode counts neither attention nor addmm_ on a CPU.
#
# scaled_dot_product_attention on CPU tensors runs the operation _scaled_dot_product_flash_attention_for_cpu, and a sum into a
# matrix runs addmm_. The counter's registry has neither (it has the operations of the GPU backends, and addmm). They count as
# nothing, without a warning. So the FLOPs of a small transformer, counted on a CPU, are too few by its whole attention.
#
# Versions: torch 2.13.0 (the build for CPUs), numpy 2.3.5, Python 3.11 on Linux x86-64. About 200 MB are downloaded.
#
# Valid input: float32 matrices of 16 x 16 and one head of 32 positions.
# The rule that follows: count attention by its closed form, or give the counter `custom_mapping` entries for both operations.
#
# Seen:
#   addmm: 8192 of 8192
#   addmm_: 0 of 8192
#   attention: 0 of 65536
#   attention, by hand with matmul: 65536 of 65536
#
# Exit status 0 while this holds, 1 when it has changed.
set -eu
DIRECTORY=$(mktemp -d)
trap 'rm -rf "$DIRECTORY"' EXIT
python3 -m venv "$DIRECTORY/venv"
"$DIRECTORY/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
"$DIRECTORY/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

L, D = 32, 16


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


a, b, into = torch.randn(16, D), torch.randn(D, 16), torch.zeros(16, 16)
q, k, v = (torch.randn(1, 1, L, D) for _ in range(3))
products = 2 * 16 * 16 * D
attention = 2 * 2 * L * L * D
seen = {
    "addmm": (counted(lambda: torch.addmm(into, a, b)), products),
    "addmm_": (counted(lambda: into.addmm_(a, b)), products),
    "attention": (counted(lambda: scaled_dot_product_attention(q, k, v)), attention),
    "attention, by hand with matmul": (counted(lambda: (q @ k.transpose(-1, -2)).softmax(-1) @ v), attention),
}
for name, (count, true) in seen.items():
    print(f"{name}: {count} of {true}")
assert [count for count, _ in seen.values()] == [products, 0, 0, attention], "the counter has changed"
PYTHON
