"""A pytest plugin that writes how each test ended, a line of JSON each, to the file in HYPER_REPORT."""

import json
import os

_ends = {}


def pytest_runtest_logreport(report):
    end = _ends.setdefault(report.nodeid, {"outcome": "passed", "why": ""})
    if report.failed and end["outcome"] != "failed":
        lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
        end["outcome"] = "failed"
        end["why"] = " ".join(line[1:].strip() for line in lines)[:400] or str(report.longrepr)[-400:]
    elif report.skipped and end["outcome"] == "passed":
        # What is expected to fail is reported as skipped.
        end["outcome"] = "skipped"


def pytest_sessionfinish(session):
    with open(os.environ["HYPER_REPORT"], "w") as file:
        for nodeid, end in sorted(_ends.items()):
            file.write(json.dumps({"test": nodeid.removeprefix("tests/integration/"), **end}) + "\n")
