"""A search's page needs nothing but itself, shows what was found, and lets no name out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from harness.report.search import render
from harness.search.result import document, rows_of
from tests.harness.rows import OK
from tests.harness.search_results import RESULT


def page() -> str:
    return render(RESULT, generated="2026-01-01 00:00 UTC")


def test_the_page_says_what_was_found_and_what_it_hangs_on() -> None:
    text = page()
    for words in (
        "97.33%", "s1/99", "95.10%", "97.00%", "trained in integers", "latency at most 30 ms",
        "sram at most 64 kB", RESULT.final.arch.encode(), "Arena over time", "depthwise", "760.0", "15,552",
        "b" * 16,
    ):  # fmt: skip
        assert words in text, words
    assert text.count("<circle") == 2 * len(RESULT.measured)
    assert all(m.costs[0].latency_ms.id in text for m in RESULT.measured if m.costs[0].latency_ms.id)
    for name in ("src=", "<script", "http:", "https:"):
        assert name not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_is_not_there_is_left_out() -> None:
    final = replace(
        RESULT.final, validation_qat=None, deployed="ptq", rows=(replace(OK, memory=None, layers=None),)
    )
    bare = replace(RESULT, final=final, front_ends=(), limits=(), history=(), foretold=(), measured=())
    text = render(bare, generated="now")
    assert "quantized after training" in text and "QAT" not in text
    assert "Arena over time" not in text and "audio front end" not in text


def test_names_cannot_become_markup() -> None:
    final = replace(RESULT.final, measured=(replace(RESULT.final.measured[0], board="<b>&\u202e"),))
    text = render(replace(RESULT, final=final), generated="now")
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text and "\u202e" not in text


def test_the_document_is_json_and_holds_every_measurement() -> None:
    values = json.loads(json.dumps(document(RESULT), allow_nan=False))
    assert [m["costs"][0]["measurement"] for m in values["measured"]] == [f"s1/{n}" for n in range(12)]
    assert values["final"]["boards"][0]["test_top1_on_board"] == pytest.approx(0.9733)
    assert values["foretold"][0]["latency_ms"]["low"] < values["foretold"][0]["latency_ms"]["predicted"]
    assert values["cpu_seconds"] == 1060.0


def test_an_interval_without_an_end_is_drawn_and_is_json() -> None:
    """So it is foretold after one measured network."""
    first = RESULT.foretold[0]
    latency = replace(first.predicted.latency_ms, low=0.0, high=inf)
    endless = replace(first, predicted=replace(first.predicted, latency_ms=latency))
    found = replace(RESULT, foretold=(endless, *RESULT.foretold[1:]))
    values = json.loads(json.dumps(document(found), allow_nan=False))
    assert values["foretold"][0]["latency_ms"]["high"] is None
    page = render(found, generated="now")
    assert "(0.00 or more)" in page
    assert re.search(r"\b(nan|inf)\b", page, re.IGNORECASE) is None


def test_stored_rows_are_found_by_measurement_id() -> None:
    rows = [replace(OK, session="a", attempt=n) for n in range(3)]
    assert rows_of(["a/2", "a/0"], rows) == (rows[2], rows[0])
    with pytest.raises(KeyError):
        rows_of(["a/9"], rows)


def test_the_page_renders_in_chromium(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("CHROMIUM ABSENT: the page was not checked in a browser; apt-get install chromium")
    file = tmp_path / "report.html"
    file.write_text(page(), encoding="utf-8")
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={picture}",
         "--window-size=1300,3000", f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.is_file() and picture.stat().st_size > 50_000, done.stderr
    assert "Refused to" not in done.stderr and "Uncaught" not in done.stderr
