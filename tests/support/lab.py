"""A real `jupyter lab` on loopback, with settings, data and notebooks of its own."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
from support.run_all import with_parameters

from lrnb.study.parameters import ROOT

WAIT = 180  # seconds until the server answers; a machine that does other things is slow
SETTINGS = {  # JupyterLab asks nobody for news; all cells are in the page, for screenshots
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none", "autoRenderMarkdownCells": True},
}


class Lab:
    """A running `jupyter lab`; `root` holds the notebooks it serves."""

    def __init__(self, home: Path, dark: bool = False) -> None:
        self.dark, self.root, self._home, self.token = dark, home / "root", home, secrets.token_hex(16)
        self.root.mkdir(parents=True)
        self._settings()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with open(home / "lab.log", "wb") as log:
            self._server = subprocess.Popen(self._command(), stdout=log, stderr=log, env=self._env())
        self._wait()

    def _settings(self) -> None:
        theme = {"theme": f"JupyterLab {'Dark' if self.dark else 'Light'}"}
        for name, content in (SETTINGS | {"apputils-extension/themes": theme}).items():
            path = self._home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))

    def _command(self) -> list[str]:
        options = {
            "ServerApp.port": urlsplit(self.url).port,
            "ServerApp.root_dir": self.root,
            "IdentityProvider.token": self.token,
            "ServerApp.allow_root": True,  # a container's user
            "LabApp.expose_app_in_browser": True,
        }
        given = [f"--{key}={value}" for key, value in options.items()]
        return [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", *given]

    def _env(self) -> dict[str, str]:
        """The environment of a person: no batch variables, and nothing of theirs is read or written."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if k not in ("LRNB_PROGRESS", "LRNB_HEADLESS", "PLOTLY_RENDERER")
        }
        kept |= {"PYTHONPATH": str(ROOT), "JUPYTERLAB_SETTINGS_DIR": str(self._home / "settings")}
        folders = (
            "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR JUPYTERLAB_WORKSPACES_DIR"
        )
        return kept | {name: str(self._home / name.lower()) for name in folders.split()}

    def _wait(self) -> None:
        end = time.monotonic() + WAIT
        while time.monotonic() < end and self._server.poll() is None:
            try:
                return urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=5).close()
            except OSError:
                time.sleep(0.2)
        self.close()
        raise AssertionError((self._home / "lab.log").read_text()[-3000:])

    def close(self) -> None:
        """End the server with its kernels."""
        self._server.terminate()
        try:
            self._server.wait(30)
        except subprocess.TimeoutExpired:
            self._server.kill()

    def add(self, name: str, **parameters: Any) -> str:
        """Copy notebooks/<name>.ipynb to the root, with other parameters; returns its path there."""
        path = self.root / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(with_parameters(name, **parameters), path)
        return f"{name}.ipynb"

    def write(self, name: str, *cells: str) -> str:
        """A new notebook with these code cells; returns its path."""
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(nb, self.root / f"{name}.ipynb")
        return f"{name}.ipynb"
