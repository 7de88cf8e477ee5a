"""Reads a compiler's output: the hot loop of a kernel, the width of its loads, its tensor-core instructions, and spills.

The hot loop is the smallest loop with the most matrix instructions or, if there are none, with the most loads. In a kernel
without a loop it is the whole kernel.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["sass", "ptx", "amdgcn"]

_LABEL: Mapping[Kind, str] = {"sass": r"^\s*(\.L_x?_?\d+):", "ptx": r"^\s*(\$L__BB\d+_\d+):", "amdgcn": r"^\s*(\.LBB\d+_\d+):"}
_BRANCH: Mapping[Kind, str] = {
    "sass": r"\bBRA(?:\.\w+)*\s.*`\((\.L_x?_?\d+)\)",
    "ptx": r"\bbra(?:\.\w+)*\s+(\$L__BB\d+_\d+)",
    "amdgcn": r"\bs_c?branch\w*\s+(\.LBB\d+_\d+)",
}
_MATRIX: Mapping[Kind, str] = {
    "sass": r"\b(UTC\w*MMA|[HIQBD]G?MMA)\b",
    "ptx": r"\b(wgmma|mma|tcgen05)\.(?:mma_async\.|mma\.|sync\.aligned\.m)",
    "amdgcn": r"\b(v_mfma)_",
}
_LOAD: Mapping[Kind, str] = {
    "sass": r"\b(LDG(?:STS)?\.E[\w.]*|UTMALDG[\w.]*)",
    "ptx": r"\b(ld\.global[\w.:]*|cp\.async\.c[ag]\.shared\.global)\b",
    "amdgcn": r"\b((?:global|buffer)_load_\w+)",
}
_WIDE = 16  # bytes of a 128-bit load


@dataclass(frozen=True, slots=True)
class Loop:
    """Instructions of the hot loop. A load by the memory engine (TMA) counts as wide."""

    lines: tuple[str, ...]
    load_bytes: tuple[int, ...]  # per thread, one entry for each load instruction
    matrix: str  # family of the tensor core's instructions, or ""

    @property
    def wide_share(self) -> float:
        """The share of loaded bytes that 128-bit loads bring."""
        total = sum(self.load_bytes)
        return sum(size for size in self.load_bytes if size >= _WIDE) / total if total else 1.0

    @property
    def narrow_loads(self) -> int:
        """Number of load instructions of less than 128 bits."""
        return sum(size < _WIDE for size in self.load_bytes)


def hot_loop(text: str, kind: Kind) -> Loop:
    """The hot loop of a kernel, from its assembly text."""
    lines = text.splitlines()
    spans = [lines[start : end + 1] for start, end in _loops(lines, kind)]
    chosen = max(spans, key=lambda span: (_count(span, _MATRIX[kind]), _count(span, _LOAD[kind]), -len(span)), default=lines)
    if not _count(chosen, _LOAD[kind]):
        chosen = lines
    families = Counter(found[1] for line in lines if (found := re.search(_MATRIX[kind], line)))
    loads = tuple(_load_bytes(line, kind) for line in chosen if re.search(_LOAD[kind], line))
    return Loop(tuple(chosen), loads, families.most_common(1)[0][0] if families else "")


def _loops(lines: list[str], kind: Kind) -> Iterator[tuple[int, int]]:
    """The first and last line of each loop, which goes from a label to a branch back to it."""
    at: dict[str, int] = {}
    for number, line in enumerate(lines):
        if label := re.match(_LABEL[kind], line):
            at[label[1]] = number
        elif (branch := re.search(_BRANCH[kind], line)) and branch[1] in at:
            yield at[branch[1]], number


def _count(lines: list[str], pattern: str) -> int:
    return sum(re.search(pattern, line) is not None for line in lines)


def _load_bytes(line: str, kind: Kind) -> int:
    """Bytes that one thread gets from a load."""
    found = re.search(_LOAD[kind], line)
    assert found
    load = found[1]
    if kind == "amdgcn":
        words = re.search(r"dwordx(\d)|_b(\d+)$", load)
        narrow = 1 if "byte" in load or "8" in load else 2 if "short" in load or "16" in load else 4
        return 4 * int(words[1]) if words and words[1] else narrow
    if kind == "ptx":
        if load.startswith("cp.async"):
            copied = re.search(r"\],\s*(0x[0-9a-f]+|\d+)", line)
            return int(copied[1], 0) if copied else _WIDE
        vector, bits = re.search(r"\.v(\d)", load), re.search(r"\.[busf](\d+)$", load)
        return (int(vector[1]) if vector else 1) * (int(bits[1]) if bits else 32) // 8
    if load.startswith("UTMALDG"):
        return _WIDE
    for suffix, size in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1)):
        if suffix in load:
            return size
    return 4


def sass_spills(sass: str) -> int:
    """Number of loads from and stores to local memory, because the compiler reports 0 bytes even when it spills."""
    return len(re.findall(r"\b(?:LDL|STL)\b", sass))


def number(text: str, pattern: str) -> int:
    """The number that follows a pattern in a text."""
    found = re.search(pattern + r"\s*(\d+)", text)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class LoopWork:
    """The work of one program in one iteration of its hot loop, by all threads together, read from PTX."""

    tensor_flop: float
    vector_flop: float
    load_bytes: float  # requested; bytes that several threads request count several times
    exponentials: float


def loop_work(ptx: str, num_warps: int) -> LoopWork:
    """Count the work by instructions. An iteration of an unrolled loop is one of the unrolled code."""
    loop, threads = hot_loop(ptx, "ptx"), 32 * num_warps
    tensor = 0.0
    for line in loop.lines:
        if shape := re.search(r"\bw?g?mma\S*\.m(\d+)n(\d+)k(\d+)", line):
            teams = num_warps / 4 if "wgmma" in line else num_warps
            tensor += 2 * int(shape[1]) * int(shape[2]) * int(shape[3]) * teams
    text = "\n".join(loop.lines)
    fused = len(re.findall(r"\bfma\.rn", text))
    single = len(re.findall(r"\b(?:add|sub|mul|max|min)(?:\.\w+)*\.f(?:32|16x2)", text))
    return LoopWork(
        tensor_flop=tensor,
        vector_flop=(2.0 * fused + single) * threads,
        load_bytes=float(sum(loop.load_bytes) * threads),
        exponentials=float(len(re.findall(r"\bex2\.approx", text)) * threads),
    )
