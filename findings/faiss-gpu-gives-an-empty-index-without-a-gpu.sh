#!/bin/sh
# faiss-gpu 1.15.1: index_cpu_to_all_gpus returns an empty index where no GPU is, without an error or a warning.
#
# Versions: faiss-gpu 1.15.1, numpy 2.4.6, nvidia-cuda-runtime-cu12 12.6.77, nvidia-cublas-cu12 12.6.4.1,
# nvidia-curand-cu12 10.3.7.77; Python 3.11 on Linux x86-64 without a driver of NVIDIA. About 600 MB are downloaded.
#
# Valid input: an IndexFlatL2 with 5 rows, on a machine without a GPU (or with CUDA_VISIBLE_DEVICES empty, as here).
# Expected: an error, as index_cpu_to_gpu raises for the same index.
# Seen:
#   GPUs: 0
#   StandardGpuResources: made without an error
#   index_cpu_to_gpu: RuntimeError, Invalid GPU device 0
#   index_cpu_to_all_gpus: IndexReplicas with 0 rows of 5
#   useFloat16 after use_float16 = True: False
# The last line: a setting that is not there is accepted, and nothing is set.
# The rule that follows: ask get_num_gpus() first, compare ntotal after every move, and check the names of settings.
#
# Exit status 0 while this holds, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check faiss-gpu==1.15.1 numpy==2.4.6 \
    nvidia-cuda-runtime-cu12==12.6.77 nvidia-cublas-cu12==12.6.4.1 nvidia-curand-cu12==10.3.7.77
CUDA_VISIBLE_DEVICES="" "$folder/venv/bin/python" - <<'PYTHON'
import sys

import faiss
import numpy as np

index = faiss.IndexFlatL2(8)
index.add(np.ones((5, 8), np.float32))
gpus = faiss.get_num_gpus()
print("GPUs:", gpus)
resources = faiss.StandardGpuResources()
print("StandardGpuResources: made without an error")
try:
    faiss.index_cpu_to_gpu(resources, 0, index)
    error = ""
except RuntimeError as raised:
    error = str(raised)
print("index_cpu_to_gpu:", "RuntimeError, Invalid GPU device 0" if "Invalid GPU device 0" in error else error or "no error")
moved = faiss.index_cpu_to_all_gpus(index)
print(f"index_cpu_to_all_gpus: {type(moved).__name__} with {moved.ntotal} rows of {index.ntotal}")
config = faiss.GpuIndexFlatConfig()
config.use_float16 = True
print("useFloat16 after use_float16 = True:", config.useFloat16)
holds = (gpus, moved.ntotal, config.useFloat16) == (0, 0, False) and "Invalid GPU device 0" in error
print("holds" if holds else "CHANGED")
sys.exit(0 if holds else 1)
PYTHON
