"""Rules and configuration of Prometheus: by promtool where it is installed, and read as YAML everywhere."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deploy.promql import DEPLOY, RULES, Asked, alerts, asked, known, rules, unknown

ROOT = DEPLOY.parent
OPERATIONS = ROOT / "docs" / "operations.md"
CHECK = DEPLOY / "prometheus" / "check.sh"
CASES = sorted((Path(__file__).parent / "prometheus").glob("*_test.yml"))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


@needs_promtool
def test_prometheus_accepts_rules_and_configuration() -> None:
    done = run(CHECK)
    assert (done.returncode, done.stderr) == (0, "")


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_the_rules_fire_when_they_should_and_only_then(cases: Path) -> None:
    done = run("promtool", "test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("file", ["rules/nightly.yml", "prometheus.yml"])
def test_what_prometheus_would_refuse_is_named_in_one_sentence(file: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "prometheus")
    broken = tmp_path / "prometheus" / file
    broken.write_text(broken.read_text().replace("twotower_embed_gate_passed == 0", "sum(").replace("job_name", "job"))
    done = run(CHECK, tmp_path / "prometheus")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Prometheus would refuse {broken}: ")


def test_what_any_promtool_refuses_is_one_sentence_and_a_status(tmp_path: Path) -> None:
    """As above where promtool is not installed: a program that says it as promtool does takes its place."""
    said = 'echo "Checking $3"; printf "  FAILED:\\n%s: 9:15: group x: parse error\\n" "$3" >&2; exit 1'
    (tmp_path / "promtool").write_text(f"#!/bin/sh\n{said}\n")
    (tmp_path / "promtool").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([str(CHECK)], capture_output=True, text=True, check=False, env=environment)
    file = DEPLOY / "prometheus" / "rules" / "nightly.yml"
    told = f"Prometheus would refuse {file}: {file}: 9:15: group x: parse error\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_without_promtool_the_check_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "/usr/bin/dirname")
    sh = shutil.which("sh") or "/bin/sh"
    done = subprocess.run([sh, str(CHECK)], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "apt-get install prometheus" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_metric_and_label_in_a_rule_is_there(tmp_path: Path) -> None:
    there = known(tmp_path)
    assert {
        rule.get("alert") or rule["record"]: unknown(rule["expr"], there) for rule in rules() if unknown(rule["expr"], there)
    } == {}


def test_a_metric_that_is_not_there_is_found(tmp_path: Path) -> None:
    query = 'sum by (job) (rate(twotower_nothing_total{a="b{c}"}[5m])) / twotower_queue_depth{shop="x"} unless up offset 1h > 0.5'
    assert asked(query) == {
        Asked("twotower_nothing_total", frozenset({"a"})),
        Asked("twotower_queue_depth", frozenset({"shop"})),
        Asked("up", frozenset()),
    }
    assert sorted(unknown(query, known(tmp_path))) == ["twotower_nothing_total", "twotower_queue_depth{shop}"]


def test_every_alert_leads_to_its_paragraph_and_every_paragraph_is_of_an_alert() -> None:
    names = {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    runbook = re.split(r"^## ", OPERATIONS.read_text(), flags=re.MULTILINE)
    (section,) = [text for text in runbook if text.startswith("Runbook\n")]
    paragraphs = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n### |\Z)", section, re.MULTILINE | re.DOTALL))
    assert paragraphs.keys() == names
    assert [name for name, text in paragraphs.items() if len(text) < 80] == []


def cases() -> list[dict[str, Any]]:
    return [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]


def test_of_every_alert_a_case_shows_that_it_fires() -> None:
    fired = {
        name
        for case in cases()
        for checked in case["promql_expr_test"]
        for sample in checked["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert {rule["alert"] for rule in alerts()} == fired


def test_the_windows_of_a_promise_differ_in_nothing_but_their_length() -> None:
    shapes: dict[str, set[str]] = {}
    windows: dict[str, list[str]] = {}
    for rule in rules():
        if "rate" in rule.get("record", "").rpartition("ratio_")[2]:
            name, _, window = rule["record"].rpartition("rate")
            shapes.setdefault(name, set()).add(rule["expr"].replace(f"[{window}]", "[]"))
            windows.setdefault(name, []).append(window)
    assert shapes.keys() == {f"job:twotower_{promise}:ratio_" for promise in ("errors", "slow", "degraded")}
    assert {name: len(found) for name, found in shapes.items()} == dict.fromkeys(shapes, 1)
    assert {tuple(found) for found in windows.values()} == {("5m", "30m", "1h", "6h", "3d")}


def test_the_measures_of_hits_are_of_six_hours_and_of_the_week_before_them() -> None:
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule and "ratio_rate" not in rule["record"]}
    short, long = ({name[:-3]: expr for name, expr in recorded.items() if name.endswith(end)} for end in ("_6h", "_7d"))
    assert short == {name: expr.replace("[7d] offset 6h", "[6h]").replace("_7d", "_6h") for name, expr in long.items()}
    assert all("offset 6h" in expr for expr in long.values())


def test_a_promise_burns_by_a_long_window_and_a_short_one() -> None:
    pattern = re.compile(
        r"job:twotower_\w+:ratio_rate(\w+) > ([\d.]+) \* ([\d.]+)\s+and job:twotower_\w+:ratio_rate(\w+) > \2 \* \3$"
    )
    found: dict[str, list[tuple[str, ...]]] = {}
    for rule in alerts():
        if matched := pattern.match(rule["expr"].strip()):
            found.setdefault(rule["alert"], []).append((*matched.groups(), rule["labels"]["severity"]))
    factors = [("1h", "14.4", "5m", "page"), ("6h", "6", "30m", "page"), ("3d", "1", "6h", "ticket")]
    budgets = {"TwotowerErrors": "0.001", "TwotowerSlow": "0.01", "TwotowerDegraded": "0.01"}
    assert found == {
        name: [(long, factor, budget, short, severity) for long, factor, short, severity in factors]
        for name, budget in budgets.items()
    }


def test_the_configuration_reads_every_file_of_rules() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert config["rule_files"] == ["rules/*.yml"]
    assert len(RULES) == 3
    assert "twotower" in {job["job_name"] for job in config["scrape_configs"]}
