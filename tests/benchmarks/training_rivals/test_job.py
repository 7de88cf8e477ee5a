from pathlib import Path

import msgspec
import pytest

from benchmarks.training_rivals.job import BASKET_PEERS, JOB, SEQUENCE_PEERS, PeerConfig, PeerJob, read_job, sasrec_baskets


@pytest.mark.parametrize("config", [make() for make in (*BASKET_PEERS.values(), *SEQUENCE_PEERS.values())])
def test_a_job_is_read_as_it_was_written(config: PeerConfig, tmp_path: Path) -> None:
    job = PeerJob(config=config, minutes=30, threads=2)
    (tmp_path / JOB).write_bytes(msgspec.json.encode(job))

    assert read_job(tmp_path) == job


def test_a_setting_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    content = msgspec.to_builtins(PeerJob(config=sasrec_baskets(), minutes=30, threads=2)) | {"epochs": 3}
    (tmp_path / JOB).write_bytes(msgspec.json.encode(content))

    with pytest.raises(msgspec.ValidationError, match="epochs"):
        read_job(tmp_path)
