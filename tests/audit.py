"""Hold what is installed against the published advisories: `tox run -e lint` calls it.

What is known to be vulnerable fails. Advisories that cannot be reached do not: a line says that
nothing, or of which packages nothing, was looked up. Arguments go to pip-audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# What pip-audit says where nobody answers; any other failure is one.
OUT_OF_REACH = ("vulnerability feed", "requests.exceptions.")


def judge(code: int, report: str, errors: str) -> tuple[int, str]:
    """Return the exit code, and what there is to say.

    Args:
        code: of pip-audit.
        report: its JSON; empty where there is none.
        errors: what it printed on stderr.
    """
    if not report:
        if any(text in errors for text in OUT_OF_REACH):
            return 0, "audit: the advisories are out of reach; nothing was looked up"
        return code or 1, f"audit: pip-audit failed\n{errors}"
    packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    found = [
        f"audit: {package['name']} {package['version']}: {one['id']}, "
        f"mended in {', '.join(one['fix_versions']) or 'no version yet'}"
        for package in packages
        for one in package.get("vulns", [])
    ]
    skipped = sum("skip_reason" in package for package in packages)
    summary = f"audit: {len(packages) - skipped} packages looked up, {skipped} without advisories"
    return int(bool(found)), "\n".join([*found, summary])


def main() -> int:
    """Call pip-audit on this environment, and judge what it says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format"]
        command += ["json", "--output", str(path), *sys.argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        report = path.read_text(encoding="utf-8") if path.is_file() else ""
    code, text = judge(done.returncode, report, done.stderr)
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
