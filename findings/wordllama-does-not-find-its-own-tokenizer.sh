#!/bin/sh
# WordLlama: the wheel holds both the weights and the tokenizer, but without a network the default model does not load.
#
# Versions: wordllama 0.4.0.post1; Python 3.11 on Linux x86-64.
#
# Valid input: WordLlama.load(disable_download=True), in an empty folder, after `pip install wordllama`.
# Expected: the model of 256 dimensions, because the wheel has weights/l2_supercat_256.safetensors and
# tokenizers/l2_supercat_tokenizer_config.json.
# Seen: FileNotFoundError: Tokenizer file 'l2_supercat_tokenizer_config.json' not found in project root or cache, and downloads
# are disabled. With downloads allowed, its code would fetch a second copy.
# Why: in its own folder it looks for a folder named tokenizer, but the wheel's is named tokenizers; the weights' folder fits.
# The rule that follows: name the package's own folder as the cache: load(cache_dir=Path(wordllama.__file__).parent).
#
# Exit status 0 while this holds, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wordllama==0.4.0.post1
cd "$folder"
HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import wordllama

folder = Path(wordllama.__file__).parent
assert (folder / "tokenizers" / "l2_supercat_tokenizer_config.json").exists()
assert (folder / "weights" / "l2_supercat_256.safetensors").exists()
try:
    wordllama.WordLlama.load(disable_download=True)
    found = True
except FileNotFoundError as error:
    print(error)
    found = False
vectors = wordllama.WordLlama.load(cache_dir=folder, disable_download=True).embed(["apple sauce", "chocolate cookies"])
print("with the package as its cache:", vectors.shape)
holds = not found and vectors.shape == (2, 256)
print("holds" if holds else "CHANGED")
sys.exit(0 if holds else 1)
PYTHON
