"""A real ComfyUI server on the CPU, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from .events import Event, Listener, Run
from .install import ComfyInstall

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0
RUN_TIMEOUT_S = 300.0


class PromptRefused(Exception):
    """The server refused a prompt; ``node_errors`` is its answer by node id."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.error: dict[str, Any] = answer.get("error") or {}
        self.node_errors: dict[str, Any] = answer.get("node_errors") or {}
        details = [
            f"node {node} ({said['class_type']}): {one['message']}: {one['details']}"
            for node, said in self.node_errors.items()
            for one in said["errors"]
        ]
        super().__init__("; ".join(details) or str(self.error.get("message", answer)))


class ComfyServer:
    """Starts main.py with a base directory of its own; use as a context manager."""

    def __init__(self, install: ComfyInstall, base: Path) -> None:
        self.install, self.base = install, base
        self.address = f"127.0.0.1:{_free_port()}"
        self.url = f"http://{self.address}"
        self.log_file = base / "server.log"
        self.started_in_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: Listener | None = None
        self._mark = 0

    def __enter__(self) -> ComfyServer:
        command = [
            str(self.install.python),
            str(self.install.directory / "main.py"),
            *("--cpu", "--port", self.address.rpartition(":")[2], "--base-directory", str(self.base)),
            *("--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--preview-method", "latent2rgb"),
        ]
        began = time.monotonic()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONPATH", None)
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.base, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            self._wait_until_up(began + START_TIMEOUT_S)
            self.started_in_s = time.monotonic() - began
            self._listener = self.connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._process is None:
            return
        for signal_number in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal_number)
                try:
                    self._process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    continue

    def kill(self) -> None:
        """Takes the process away without a word; `__enter__` starts it again at the same address."""
        assert self._process is not None
        if self._listener is not None:
            self._listener.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)

    def _wait_until_up(self, deadline: float) -> None:
        assert self._process is not None
        while True:
            try:
                self.get("/system_stats")
                return
            except OSError:
                if (code := self._process.poll()) is not None:
                    raise RuntimeError(f"ComfyUI ended with {code} at its start:\n{self.log_tail()}") from None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"ComfyUI was not up in {START_TIMEOUT_S} s:\n{self.log_tail()}") from None
                time.sleep(0.1)

    # ---- what it says

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    def mark_log(self) -> None:
        """``log_since_mark`` begins here."""
        self._mark = len(self.log)

    def log_since_mark(self) -> str:
        return self.log[self._mark :]

    def get(self, path: str) -> Any:
        """A JSON answer."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def send(self, path: str, body: object) -> Any:
        """POST of a JSON body; the JSON answer, None if it is empty."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """What the server knows of every node, or of one (KeyError if it knows it not)."""
        if node_id is None:
            return self.get("/object_info")
        return self.get(f"/object_info/{urllib.parse.quote(node_id)}")[node_id]

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What is kept of a finished prompt; it is written a moment after its last event, so wait for it."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not (kept := self.get(f"/history/{prompt_id}")) and time.monotonic() < deadline:
            time.sleep(0.05)
        return kept[prompt_id]

    def queue(self) -> dict[str, Any]:
        return self.get("/queue")

    def view(self, file: dict[str, str]) -> bytes:
        """A file as a node's ui output names it: filename, subfolder, type."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(file))

    # ---- what it is told

    def connect(self, client_id: str | None = None) -> Listener:
        """One more websocket client, as a second page would be."""
        return Listener(self.address, client_id or uuid.uuid4().hex)

    @property
    def listener(self) -> Listener:
        assert self._listener is not None, "the server is not running"
        return self._listener

    def post(
        self, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None, listener: Listener | None = None
    ) -> str:
        """Queues a prompt in the API format; its id.

        Raises:
            PromptRefused: the server's validation failed.
        """
        client = (listener or self.listener).client_id
        body = {"prompt": prompt, "client_id": client, "extra_data": extra_data or {}}
        try:
            answer = self.send("/prompt", body)
        except urllib.error.HTTPError as error:
            raise PromptRefused(json.loads(error.read())) from None
        if answer.get("node_errors"):
            raise PromptRefused(answer)
        return answer["prompt_id"]

    def follow(self, prompt_id: str, timeout_s: float = RUN_TIMEOUT_S) -> Run:
        """Waits for the end of a prompt posted by this object."""
        return self.listener.follow(prompt_id, timeout_s)

    def run(self, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None) -> Run:
        """``post`` and ``follow``; an AssertionError with the log's end if it does not end well."""
        run = self.follow(self.post(prompt, extra_data))
        assert run.outcome == "execution_success", f"{run.outcome}: {run.error}\n{self.log_tail()}"
        return run

    def wait_for(self, event_type: str, prompt_id: str, timeout_s: float = RUN_TIMEOUT_S) -> Event:
        """The first event of a type of a prompt that may still be running."""
        return self.listener.wait_for(event_type, timeout_s, prompt_id=prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        self.send("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Unloads models and drops the outputs' cache, so that the next prompt executes every node."""
        self.send("/free", {"unload_models": True, "free_memory": True})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
