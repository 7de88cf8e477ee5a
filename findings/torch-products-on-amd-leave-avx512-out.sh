#!/bin/sh
# torch 2.13.0: float32 products on a CPU of AMD with AVX-512 run at half the speed that oneDNN, in the same package, reaches.
#
# Versions: torch 2.13.0+cpu; Python 3.11 on Linux x86-64, an AMD EPYC with AVX-512 (family 26). About 200 MB are downloaded.
#
# Valid input: nn.Linear(968, 480) of 512 rows, one thread.
# Expected: torch.mm and nn.Linear use the widest vectors that torch itself reports (get_cpu_capability() is "AVX512").
# Seen, in GFLOP/s: by MKL, which nn.Linear calls, 80 to 95; by oneDNN 210.
# The rule that follows: twotower.model.linear multiplies by oneDNN on such processors.
#
# Exit status 0 while oneDNN is faster by a half or more, 1 when that has changed, 2 on another kind of processor.
set -eu
grep -q AuthenticAMD /proc/cpuinfo && grep -qw avx512f /proc/cpuinfo || { echo "this is no processor of AMD with AVX-512"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 --extra-index-url https://download.pytorch.org/whl/cpu
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
layer, rows = torch.nn.Linear(968, 480), torch.randn(512, 968)


def by_mkl():
    return layer(rows)


def by_onednn():
    return torch.ops.mkldnn._linear_pointwise(rows, layer.weight, layer.bias, "none", [], "")


def gflops(multiply, best=float("inf")):
    for _ in range(50):
        started = time.thread_time()
        multiply()
        best = min(best, time.thread_time() - started)
    return 2 * rows.numel() * layer.out_features / best / 1e9


with torch.inference_mode():
    mkl, onednn = gflops(by_mkl), gflops(by_onednn)
print(torch.backends.cpu.get_cpu_capability(), f"MKL {mkl:.0f} GFLOP/s, oneDNN {onednn:.0f}")
print("holds" if onednn > 1.5 * mkl else "CHANGED")
sys.exit(0 if onednn > 1.5 * mkl else 1)
PYTHON
