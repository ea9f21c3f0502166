"""What a ComfyUI server says over its websocket, recorded from the first message on."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any

_TERMINAL = ("execution_success", "execution_error", "execution_interrupted")
_TEXT, _IMAGE, _IMAGE_WITH_METADATA = 3, 1, 4


@dataclass(frozen=True)
class Event:
    """One message: ``type`` and ``data`` as the page gets them, or a binary one in the same form.

    Binary previews have type ``b_preview`` or ``b_preview_with_metadata``, ``image`` their JPEG or PNG bytes and
    ``data`` their metadata.
    """

    type: str
    data: dict[str, Any]
    image: bytes | None = None


@dataclass(frozen=True)
class Run:
    """One prompt from its start to its end: ``outcome`` is the type of the last event."""

    prompt_id: str
    events: list[Event] = field(repr=False)

    @property
    def outcome(self) -> str:
        return self.events[-1].type

    @property
    def error(self) -> str:
        """The exception's type and text, '' if it ended well."""
        data = self.events[-1].data
        return f"{data.get('exception_type')}: {data.get('exception_message')}" if self.outcome == _TERMINAL[1] else ""

    def of_type(self, *types: str) -> list[Event]:
        return [event for event in self.events if event.type in types]

    @property
    def previews(self) -> list[Event]:
        return [event for event in self.events if event.image is not None]

    def output(self, node_id: str) -> dict[str, Any]:
        """What the ``executed`` event says of a node: its ui output."""
        outputs = [event.data["output"] for event in self.of_type("executed") if event.data["node"] == node_id]
        if not outputs:
            raise KeyError(f"node {node_id} sent no ui output; the run ended with {self.outcome} {self.error}")
        return outputs[-1]


def parse_binary(message: bytes) -> Event:
    """A binary websocket message: 4 bytes of kind, big endian, then what that kind holds."""
    kind, body = struct.unpack(">I", message[:4])[0], message[4:]
    if kind == _IMAGE:
        return Event("b_preview", {"format": struct.unpack(">I", body[:4])[0]}, body[4:])
    if kind == _IMAGE_WITH_METADATA:
        end = 4 + struct.unpack(">I", body[:4])[0]
        return Event("b_preview_with_metadata", json.loads(body[4:end]), body[end:])
    if kind == _TEXT:
        return Event("progress_text", {"raw": body.decode("utf-8", "replace")})
    return Event(f"binary_{kind}", {"bytes": len(body)})


class Listener:
    """A connection as the page opens it; a thread records every message until close."""

    def __init__(self, address: str, client_id: str) -> None:
        import websocket

        self.client_id = client_id
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._closed = False
        self._socket = websocket.create_connection(f"ws://{address}/ws?clientId={client_id}", timeout=30)
        # The first message declares what the client can read; without it previews come without their node's id.
        self._socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        self._socket.settimeout(None)
        threading.Thread(target=self._record, daemon=True).start()

    def _record(self) -> None:
        try:
            while message := self._socket.recv():
                if isinstance(message, bytes):
                    event = parse_binary(message)
                else:
                    parsed = json.loads(message)
                    event = Event(parsed["type"], parsed["data"])
                with self._changed:
                    self._events.append(event)
                    self._changed.notify_all()
        except Exception:  # a closed socket raises one of many things
            pass
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def follow(self, prompt_id: str, timeout_s: float) -> Run:
        """Waits for the prompt's end: every event that came since its ``execution_start``.

        Raises:
            TimeoutError: it did not end in time.
            ConnectionError: the server went away.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                mine = [index for index, event in enumerate(self._events) if event.data.get("prompt_id") == prompt_id]
                ends = [index for index in mine if self._events[index].type in _TERMINAL]
                if ends:
                    return Run(prompt_id, self._events[mine[0] : ends[0] + 1])
                left = deadline - time.monotonic()
                if self._closed:
                    raise ConnectionError(f"the server closed the websocket during prompt {prompt_id}")
                if left <= 0:
                    types = [self._events[index].type for index in mine]
                    raise TimeoutError(f"prompt {prompt_id} did not end in {timeout_s} s; it said {types}")
                self._changed.wait(left)

    def wait_for(self, event_type: str, timeout_s: float, **data: Any) -> Event:
        """The first recorded event of a type whose data have these values (``prompt_id="..."``); waits for it."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self._events:
                    if event.type == event_type and data.items() <= event.data.items():
                        return event
                left = deadline - time.monotonic()
                if left <= 0 or self._closed:
                    raise TimeoutError(f"no {event_type} event with {data} in {timeout_s} s")
                self._changed.wait(left)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._socket.close()
