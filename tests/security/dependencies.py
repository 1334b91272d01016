"""Known weaknesses of what is locked: `python -m tests.security.dependencies`.

Exit code 1 when one is known. Without a way to the advisory database nothing is known, which is said, and is no failure.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[2] / "requirements" / "runtime.txt"


def main() -> int:
    """Ask about each locked package of the runtime."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--require-hashes"]
    ended = subprocess.run([*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        asked: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (ended.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"Dependencies were NOT looked up: the advisory database cannot be reached ({reason[:200]}).")  # noqa: T201
        return 0
    weak = {package["name"]: package["vulns"] for package in asked if package.get("vulns")}
    for name, known in weak.items():
        print(f"{name}: " + ", ".join(f"{each['id']} (fixed in {each['fix_versions']})" for each in known))  # noqa: T201
    print(f"{len(asked)} locked packages of the runtime looked up, {len(weak)} with known weaknesses.")  # noqa: T201
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
