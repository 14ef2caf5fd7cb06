"""Code run in a Python of its own."""

from __future__ import annotations

import subprocess
import sys

from lrnb.study.parameters import ROOT


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines()[-1]
