"""The verdict as a table, SARIF, JUnit and workflow commands: complete, escaped, and the same from run to run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from render_factory import document, matches_golden, printed
from rich.cells import cell_len

from resnet_audit.render import text_of, verdict
from resnet_audit.render.github import annotation
from resnet_audit.render.sarif import uri_of
from resnet_audit.results import Finding, Summary

FAILED = Finding(
    metric="spectrum.layers.sigma_max",
    where="layer3.2.conv2",
    value=8.43,
    limit=4.0,
    op="le",
    rule="max",
    baseline=None,
    status="fail",
    checkpoint="net.pt",
)
HELD = replace(FAILED, where="layer1.2.conv2", value=7.87, baseline=7.87, status="held")
PASSED = replace(
    FAILED, metric="ensemble.depth_mean", where=None, value=5.8, limit=2.0, op="ge", rule="min", status="pass"
)
WORSE = replace(
    FAILED, metric="gradient.ratio_worst", where=None, value=5.4, limit=5.25, rule="max-increase", baseline=5.0
)
ALL = (PASSED, FAILED, WORSE, HELD)
TRICKY = st.text(alphabet="a0A25,:%\n\r =;", max_size=12)
HOSTILE = st.text(alphabet="a,:%\n\r<>&\"'\\/ \x00\x1b\u2028\ud800\udcffé層\U0001f600]", max_size=12)


def verdict_of(*findings: Finding, problems: tuple[str, ...] = ()) -> Any:
    status = [finding.status for finding in findings]
    counts = {name: status.count(word) for name, word in (("failed", "fail"), ("held", "held"), ("passed", "pass"))}
    summary = Summary(**counts, problems=problems)
    return {**document("graph"), "command": "check", "findings": list(findings), "summary": summary}


def parsed(text: bytes) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own text


def run_of(shown: Any) -> Any:
    (run,) = json.loads(text_of(shown, "sarif"))["runs"]
    return run


# the table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_the_golden_one(width) -> None:
    passed = (replace(FAILED, where=f"layer1.{i}.conv1", value=1.0 + i, status="pass") for i in range(3))
    assert matches_golden(f"render_check_{width}.txt", printed(verdict_of(*ALL, *passed), width=width))


def test_failures_stand_first_and_words_tell_the_status() -> None:
    lines = printed(verdict_of(*ALL)).splitlines()
    rows = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in {"FAIL", "held", "ok"}]
    assert rows == ["FAIL", "FAIL", "held", "ok"]
    assert lines[-1] == "2 failed, 1 held by baseline, 1 passed"


@pytest.mark.parametrize("metric", ["spectrum.sigma_max", "bound.covers.operator_biases.log10_spectral_complexity"])
def test_nothing_is_cut_at_80_columns(metric) -> None:
    text = printed(verdict_of(*(replace(one, metric=metric) for one in ALL)))
    assert "…" not in text
    assert metric in text
    assert "hidden" not in text
    assert max(map(cell_len, text.splitlines())) <= 80
    for one in ALL:
        assert one.where is None or one.where in text


def test_of_numbers_that_passed_the_nearest_to_its_limit_is_shown() -> None:
    passed = [replace(FAILED, where=name, value=value, status="pass") for name, value in (("a", 1.0), ("b", 3.9))]
    assert "b, nearest of 2" in printed(verdict_of(*passed))
    least = [replace(one, op="ge", limit=0.5, rule="min") for one in passed]
    assert "a, nearest of 2" in printed(verdict_of(*least))


def test_a_verdict_on_nothing_says_so() -> None:
    assert printed(verdict_of(problems=("x: y; z",))).strip() == "0 failed, 0 passed, 1 not judged"


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_value_is_shown_with_the_digits_that_tell_it_from_its_limit(value, limit) -> None:
    found = replace(FAILED, value=value, limit=limit)
    if value != limit:
        assert verdict.measured(found) not in {verdict.limit(found).removeprefix("max "), verdict.limit(found)}


# SARIF 2.1.0 ------------------------------------------------------------------------------------------------


def assert_is_sarif(log: Any) -> None:
    """What the standard demands of every object that we write (sections 3.13 to 3.60)."""
    assert log["version"] == "2.1.0"
    assert log["$schema"].startswith("https://")
    assert log.keys() <= {"$schema", "version", "runs"}
    for run in log["runs"]:
        assert run.keys() <= {"tool", "invocations", "artifacts", "results"}
        driver = run["tool"]["driver"]
        assert isinstance(driver["name"], str)
        identifiers = [rule["id"] for rule in driver["rules"]]
        assert len(set(identifiers)) == len(identifiers)
        for rule in driver["rules"]:
            assert rule.keys() <= {"id", "shortDescription", "fullDescription", "help"}
            assert all(rule[name]["text"] for name in rule.keys() - {"id"})
        for call in run["invocations"]:
            assert isinstance(call["executionSuccessful"], bool)
            for note in call["toolExecutionNotifications"]:
                assert note["level"] in {"none", "note", "warning", "error"}
                assert isinstance(note["message"]["text"], str)
        for artifact in run["artifacts"]:
            assert_is_uri(artifact["location"]["uri"])
            assert all(re.fullmatch("[0-9a-f]*", digest) for digest in artifact.get("hashes", {}).values())
        for result in run["results"]:
            assert result["message"]["text"]
            assert result["kind"] in {"notApplicable", "pass", "fail", "review", "open", "informational"}
            assert result["level"] in {"none", "note", "warning", "error"}
            assert result["kind"] == "fail" or result["level"] == "none"
            assert identifiers[result["ruleIndex"]] == result["ruleId"]
            assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
            for location in result["locations"]:
                assert_is_uri(location["physicalLocation"]["artifactLocation"]["uri"])
                assert all(isinstance(one["fullyQualifiedName"], str) for one in location.get("logicalLocations", ()))
            for suppression in result.get("suppressions", ()):
                assert suppression["kind"] in {"inSource", "external"}
                assert suppression["status"] in {"accepted", "underReview", "rejected"}


def assert_is_uri(text: str) -> None:
    """A URI reference of RFC 3986 without a scheme, or of the scheme file."""
    assert re.fullmatch(r"(file://)?([A-Za-z0-9._~/-]|%[0-9A-F]{2})*", text), text
    assert not text.startswith("//")


def test_failed_and_held_findings_are_results_and_passed_ones_are_not() -> None:
    run = run_of(verdict_of(*ALL))
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        ("spectrum.layers.sigma_max", "error"),
        ("gradient.ratio_worst", "error"),
        ("spectrum.layers.sigma_max", "note"),
    ]
    assert ["suppressions" in one for one in run["results"]] == [False, False, True]
    (place,) = run["results"][0]["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "net.pt"
    assert place["logicalLocations"] == [{"fullyQualifiedName": "layer3.2.conv2"}]
    assert "logicalLocations" not in run["results"][1]["locations"][0]
    assert run["invocations"][0]["executionSuccessful"]


def test_rules_carry_the_texts_of_explain() -> None:
    rules = {rule["id"]: rule for rule in run_of(verdict_of(*ALL))["tool"]["driver"]["rules"]}
    assert set(rules) == {one.metric for one in ALL}
    assert "largest" in rules["spectrum.layers.sigma_max"]["shortDescription"]["text"]
    assert "source: " in rules["spectrum.layers.sigma_max"]["help"]["text"]
    (file,) = run_of(verdict_of(replace(FAILED, metric="parameters")))["tool"]["driver"]["rules"]
    assert file["shortDescription"]["text"] == "parameters"


def test_what_could_not_be_judged_is_a_notification() -> None:
    (call,) = run_of(verdict_of(problems=("net.pt: a; b; c",)))["invocations"]
    assert not call["executionSuccessful"]
    assert call["toolExecutionNotifications"][0]["message"]["text"] == "net.pt: a; b; c"


def test_fingerprints_stay_when_numbers_change_and_differ_by_place_and_rule() -> None:
    changed = [
        FAILED,
        replace(FAILED, value=9.0, limit=3.0),
        replace(FAILED, where="conv1"),
        replace(FAILED, metric="spectrum.sigma_max"),
        replace(FAILED, rule="baseline"),
    ]
    prints = [one["partialFingerprints"]["metricWhereRule/v1"] for one in run_of(verdict_of(*changed))["results"]]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@given(HOSTILE, HOSTILE, HOSTILE)
def test_sarif_holds_any_text(path, where, problem) -> None:
    text = text_of(verdict_of(replace(FAILED, checkpoint=path, where=where), problems=(problem,)), "sarif")
    text.encode()
    log = json.loads(text)
    assert_is_sarif(log)
    found = log["runs"][0]["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
    assert found == where.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("net.pt", "net.pt"),
        ("./runs/a b.pt", "runs/a%20b.pt"),
        ("../x:y.pt", "../x%3Ay.pt"),
        ("größe#1?.pt", "gr%C3%B6%C3%9Fe%231%3F.pt"),
        ("net\udcff.pt", "net%FF.pt"),
        ("/srv/a b.pt", "file:///srv/a%20b.pt"),
        ("-", "-"),
        ("50%.pt", "50%25.pt"),
    ],
)
def test_a_path_is_a_uri_reference(path, uri) -> None:
    assert uri_of(path) == uri
    assert_is_uri(uri)


def test_an_absolute_path_below_the_current_folder_is_relative(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert uri_of(str(tmp_path / "runs" / "net.pt")) == "runs/net.pt"


@given(st.text(alphabet="a%/:#? é\n", min_size=1))
def test_a_uri_keeps_every_byte_of_a_relative_path(path) -> None:
    if not path.startswith(("/", "./")):
        assert unquote_to_bytes(uri_of(path)) == path.encode()


# JUnit ------------------------------------------------------------------------------------------------------


def test_junit_has_a_test_for_every_finding() -> None:
    root = parsed(text_of(verdict_of(*ALL, problems=("x: y; z",)), "junit").encode())
    (suite, errors) = root
    assert (root.tag, suite.tag, suite.get("name")) == ("testsuites", "testsuite", "net.pt")
    counted = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
    outcomes = [(case.get("classname"), case.get("name"), [child.tag for child in case]) for case in suite]
    assert outcomes == [
        ("ensemble.depth_mean", "min", []),
        ("spectrum.layers.sigma_max", "layer3.2.conv2 max", ["failure"]),
        ("gradient.ratio_worst", "max-increase", ["failure"]),
        ("spectrum.layers.sigma_max", "layer1.2.conv2 max", ["skipped"]),
    ]
    assert errors[0][0].get("message") == "x: y; z"


@given(HOSTILE, HOSTILE)
def test_junit_is_xml_whatever_the_names(path, where) -> None:
    text = text_of(verdict_of(replace(FAILED, checkpoint=path, where=where)), "junit")
    suite = parsed(text.encode())[0]
    legal = "".join(c for c in where if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff"))
    assert suite[0].get("name") == f"{legal} max"


# workflow commands ------------------------------------------------------------------------------------------


def runner(line: str) -> tuple[str, dict[str, str], str]:
    """How the runner reads a workflow command: up to the second `::`, properties by comma, then the escapes."""
    found = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line)
    assert found is not None, line

    def back(text: str, names: str) -> str:
        for code, char in {"%3A": ":", "%2C": ",", "%0D": "\r", "%0A": "\n"}.items():
            text = text.replace(code, char) if char in names else text
        return text.replace("%25", "%")

    properties = dict(one.split("=", 1) for one in found[2].split(","))
    return found[1], {key: back(value, ":,\r\n") for key, value in properties.items()}, back(found[3], "\r\n")


def test_annotations_are_errors_first_and_the_last_line_counts() -> None:
    *lines, last = text_of(verdict_of(*ALL, problems=("x: y; z",)), "github").splitlines()
    assert [runner(line)[0] for line in lines] == ["error", "error", "notice", "error"]
    _, properties, message = runner(lines[0])
    assert properties == {"title": "spectrum.layers.sigma_max in net.pt"}
    assert message == "spectrum.layers.sigma_max at layer3.2.conv2 is 8.430, above the limit: max 4"
    assert last == "2 failed, 1 held by baseline, 1 passed, 1 not judged"


@given(TRICKY, TRICKY)
@example("%25", "100%0A")
def test_the_runner_reads_back_what_was_written(title, message) -> None:
    line = annotation("error", title, message)
    assert len(line.splitlines()) == 1
    assert runner(line) == ("error", {"title": title}, message)


@given(HOSTILE, HOSTILE)
def test_an_annotation_is_one_line_whatever_the_names(title, message) -> None:
    line = annotation("error", title, message)
    line.encode()
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


# all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sarif", "junit", "github"])
def test_a_document_without_a_verdict_is_no_success(form) -> None:
    text = text_of(document("graph"), form)
    if form == "sarif":
        assert not json.loads(text)["runs"][0]["invocations"][0]["executionSuccessful"]
    elif form == "github":
        assert text.startswith("::error")
    else:
        assert len(parsed(text.encode())) == 0


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "sarif", "junit", "github"])
def test_the_same_verdict_is_the_same_text(form) -> None:
    assert text_of(verdict_of(*ALL), form) == text_of(verdict_of(*ALL), form)
