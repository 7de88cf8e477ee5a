"""What a process computes that several runs of a sweep share."""

import multiprocessing
import os
import threading
from functools import cache

import torch

from training.sweeps.corpus import Corpus, Files, read_corpus
from training.sweeps.ledger import Run, Settings
from training.sweeps.measure import measure


def computed(settings: Settings, files: Files) -> Run:
    """One run. The process reads the corpus at its first one."""
    one_thread()
    return measure(settings, _corpus(files))


def one_thread() -> None:
    """Several runs at once share the cores better than the threads of one."""
    torch.set_num_threads(1)


def begin() -> None:
    """The start of a process of this machine. It ends when the sweep is killed; else it would wait for work for ever."""
    one_thread()
    sweep = multiprocessing.parent_process()
    assert sweep is not None, "it was started by a sweep"

    def end() -> None:
        sweep.join()
        os._exit(1)

    threading.Thread(target=end, name="end with the sweep", daemon=True).start()


@cache
def _corpus(files: Files) -> Corpus:
    return read_corpus(files)
