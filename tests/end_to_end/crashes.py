"""What a disk may hold after the power is cut, as in Pillai et al. 2014 (ALICE): only what was synced is sure to last."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

Names = dict[str, int]  # in a directory -> their inodes
Tree = dict[str, bytes | None]  # path -> content; None for a directory


class Recorder:
    """Follows one store from a state that is all on the disk, and writes every state that a crash before a step could leave.

    Files hold what they held when they were last synced, or nothing. Each directory holds the names that it had when it was
    last synced or those that it has now, independently of the others; the store's own may also have but one of the new ones.
    """

    def __init__(self, store: Path, crashes: Path) -> None:
        self.store, self.crashes = store, crashes
        self._held: dict[int, int] = {}  # open descriptors: an inode that is held is not given to another file
        self._directories = self._look()
        self._data = {inode: self._read(inode) for inode in self._held if inode not in self._directories}
        self._seen: dict[frozenset[tuple[str, bytes | None]], str] = {}

    def step(self, event: str, descriptor: int | None) -> None:
        """A step is about to be taken; a file or directory that it syncs is on the disk from then on."""
        now = self._look()
        crashes, root = [], self.store.stat().st_ino
        changed = [inode for inode in now if now[inode] != self._directories.get(inode)]
        lasting = {inode: [self._directories.get(inode, {}), now[inode]] for inode in changed}
        if root in lasting:
            synced = lasting[root][0]
            lasting[root] += [synced | {name: now[root][name]} for name in now[root].keys() - synced.keys()]
        for names in itertools.product(*lasting.values()):
            directories = self._directories | dict(zip(lasting, names, strict=True))
            crashes.append(self._write(dict(self._tree("", root, directories, set(now)))))
        (self.crashes / ".least").write_text(crashes[0])  # of what was written, only what was synced
        if event == "fsync" and descriptor is not None and (inode := os.fstat(descriptor).st_ino) in self._held:
            if inode in now:
                self._directories[inode] = now[inode]
            else:
                self._data[inode] = self._read(inode)

    def _look(self) -> dict[int, Names]:
        """The names that each directory of the store has now."""
        found: dict[int, Names] = {}
        for folder, folders, files in os.walk(self.store):
            inode = self._hold(folder)
            found[inode] = {name: self._hold(f"{folder}/{name}") for name in (*folders, *files)}
        return found

    def _hold(self, path: str) -> int:
        inode = Path(path).stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
        return inode

    def _read(self, inode: int) -> bytes:
        return os.pread(self._held[inode], 1 << 30, 0)

    def _tree(self, path: str, inode: int, names: dict[int, Names], directories: set[int]) -> Iterator[tuple[str, bytes | None]]:
        if inode not in directories:
            yield path, self._data.get(inode, b"")
        elif "/.staging-" not in path:
            yield path, None
            for name, child in names.get(inode, {}).items():
                yield from self._tree(f"{path}/{name}", child, names, directories)

    def _write(self, tree: Tree) -> str:
        """The name of the directory that holds this state."""
        if (state := frozenset(tree.items())) in self._seen:
            return self._seen[state]
        name = self._seen[state] = f"{len(self._seen):03}"
        crash = self.crashes / name
        for path, content in sorted(tree.items()):
            if content is None:
                Path(f"{crash}{path}").mkdir(parents=True)
            else:
                Path(f"{crash}{path}").write_bytes(content)
        return name
