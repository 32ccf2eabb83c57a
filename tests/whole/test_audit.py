"""The look at advisories: red for what is known, not for a network that is not there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support import ROOT

audit = importlib.util.module_from_spec(
    spec := importlib.util.spec_from_file_location("audit", ROOT / "tests" / "audit.py")  # type: ignore[arg-type] # it is there
)
spec.loader.exec_module(audit)  # type: ignore[union-attr] # as above

FINDING = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": []}


def report(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("code", "text", "errors", "expected", "words"),
    [
        (0, report({"name": "a", "version": "1", "vulns": []}), "", 0, "1 packages looked up"),
        (0, report({"name": "a", "skip_reason": "x"}), "", 0, "0 packages looked up, 1 without"),
        (
            1,
            report({"name": "a", "version": "1", "vulns": [FINDING]}, {"name": "b"}),
            "",
            1,
            "a 1: PYSEC-1, mended in 2.0",
        ),
        (1, "", "Could not connect to PyPI's vulnerability feed", 0, "out of reach"),
        (1, "", "requests.exceptions.ConnectionError: refused", 0, "out of reach"),
        (1, "", "Traceback: KeyError", 1, "pip-audit failed"),
        (2, "", "unrecognized arguments", 2, "pip-audit failed"),
        (0, "", "", 1, "pip-audit failed"),
    ],
)
def test_a_finding_fails_and_a_missing_network_does_not(
    code: int, text: str, errors: str, expected: int, words: str
) -> None:
    exit_code, said = audit.judge(code, text, errors)
    assert exit_code == expected
    assert words in said


@contextmanager
def advisories(vulnerable: str) -> Iterator[str]:
    """Serve OSV's answers: nothing is known but of one package."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = {
                "id": "GHSA-0000-0000-0000",
                "affected": [
                    {
                        "package": {"name": vulnerable, "ecosystem": "PyPI"},
                        "versions": [asked["version"]],
                        "ranges": [
                            {
                                "type": "ECOSYSTEM",
                                "events": [{"introduced": "0"}, {"fixed": "9999"}],
                            }
                        ],
                    }
                ],
            }
            found = {"vulns": [known]} if asked["package"]["name"] == vulnerable else {}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audited(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "audit.py"), "-s", "osv"]
    return subprocess.run(  # noqa: S603 - our own script
        [*command, "--osv-url", url], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(
    importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not installed (tox -e lint)"
)
def test_pip_audit_itself_is_understood() -> None:
    with advisories("numpy") as url:
        done = audited(url)
    assert done.returncode == 1
    assert "GHSA-0000-0000-0000, mended in 9999" in done.stderr
    assert "audit: numpy " in done.stderr
    with advisories("nobody-has-this") as url:
        done = audited(url)
    assert done.returncode == 0, done.stderr
    assert "looked up" in done.stderr
    done = audited("http://127.0.0.1:9/")
    assert done.returncode == 0
    assert "out of reach" in done.stderr
