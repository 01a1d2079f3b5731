"""A model server whose answers depend on the request alone: the same request always gets the same answer.

A text field is answered with its name and a digest of the conversation, so that a difference in one request shows in
all that follows from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dspex.testing.model_examples import schema_example

__all__ = ["CompatServer"]

ROOT = str(Path(__file__).parents[2])
_NOTE = re.compile(r"\{(\w+)\}\s+# note: the value you produce (.*)")


class CompatServer:
    """Serves one pattern at a time: :meth:`begin`, then :meth:`requests` gives what was asked since."""

    def __init__(self) -> None:
        self._asked: list[dict[str, Any]] = []
        self._answers: Mapping[str, Any] = {}
        self._steps: list[tuple[str, dict[str, Any]]] = []
        self._answered_most: int | None = None
        self._released = threading.Event()
        #: The requests that wait for an answer.
        self.held = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="compat-server")

    def __enter__(self) -> CompatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def begin(self, answers: Mapping[str, Any], steps: list[tuple[str, dict[str, Any]]]) -> None:
        self._asked, self._answers, self._steps = [], answers, steps
        self._answered_most = None

    def hold_after(self, most: int) -> None:
        """Answer so many requests; the others wait until :meth:`release`, and are not answered then."""
        self._answered_most, self.held = most, 0
        self._released.clear()

    def release(self) -> None:
        """Give up the requests that wait, and answer those that come from now on."""
        self._answered_most = None
        self._released.set()

    def requests(self) -> list[dict[str, Any]]:
        return list(self._asked)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
                body = json.loads(sent.replace(ROOT, "<root>"))  # in the tracebacks that agents show
                if self.path == "/begin":
                    server.begin(body["answers"], body["steps"])
                    self._reply({})
                elif self.path == "/requests":
                    self._reply(server.requests())
                else:
                    self._complete(body)

            def _complete(self, body: dict[str, Any]) -> None:
                asked = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
                server._asked.append({**asked, "path": self.path, "title": self.headers.get("X-Title")})
                if server._answered_most is not None and len(server._asked) > server._answered_most:
                    server.held += 1
                    server._released.wait()
                    self.close_connection = True
                    return
                completion = server._completion(body)
                if body.get("stream"):
                    self._stream(completion)
                else:
                    self._reply(completion)

            def _reply(self, content: Any) -> None:
                self._send("application/json", json.dumps(content).encode())

            def _stream(self, completion: dict[str, Any]) -> None:
                message = completion["choices"][0]["message"]
                pieces = re.findall(r"(?s).{1,12}", message["content"] or "")
                deltas: list[dict[str, Any]] = [{"role": "assistant", "content": piece} for piece in pieces]
                chunks = [_chunk(completion, delta, None) for delta in deltas]
                chunks += [_chunk(completion, {}, "stop"), {**_chunk(completion, {}, None), "choices": [],
                                                            "usage": completion["usage"]}]  # fmt: skip
                lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
                self._send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode())

            def _send(self, kind: str, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing is logged."""

        return Handler

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps([body["model"], body.get("temperature"), body["messages"]], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if body.get("tools") and self._steps:
            name, arguments = self._step(body)
            call = {"name": name, "arguments": json.dumps(arguments)}
            message["tool_calls"] = [{"id": f"call_{digest[:8]}", "type": "function", "function": call}]
        else:
            message["content"] = self._answer(body, digest)
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return {
            "id": f"chatcmpl-{digest[:12]}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": len(text) // 4, "completion_tokens": 10, "total_tokens": len(text) // 4 + 10},
        }

    def _answer(self, body: dict[str, Any], digest: str) -> str:
        asked = _text(body["messages"][-1])
        schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
        if "wrapped in XML tags" in asked:
            form, names = "xml", re.findall(r"`<(\w+)>`", asked)
        elif schema is not None:
            form, names = "json", list(schema["properties"])
        elif "[[ ## completed ## ]]" not in asked and ("JSON object" in asked or body.get("response_format")):
            form, names = "json", re.findall(r"`(\w+)`(?= \(|,|\.)", asked)
        else:
            form, names = "sections", re.findall(r"`\[\[ ## (\w+) ## \]\]`", asked)
        notes = dict(_NOTE.findall(_text(body["messages"][0]).replace('\\"', '"')))
        given = (schema or {}).get("properties", {})
        values = {
            name: self._value(name, notes.get(name, ""), given.get(name), schema, digest, body)
            for name in names
            if name != "completed"
        }
        if not values:
            return str(self._answers.get("", f"text {digest[:8]}"))
        return _written(form, values)

    def _value(self, name: str, note: str, schema: Any, root: Any, digest: str, body: dict[str, Any]) -> Any:
        step = self._step(body) if self._steps else None
        if step and name in ("next_tool_name", "next_tool_args"):
            return step[0] if name == "next_tool_name" else step[1]
        if name in self._answers:
            found = self._answers[name]
            return found[int(digest[:4], 16) % len(found)] if isinstance(found, tuple) else found
        if note.startswith("must adhere to the JSON schema: "):
            schema = root = json.JSONDecoder().raw_decode(note.partition(": ")[2])[0]
        if schema is not None and schema.get("type") != "string":
            return schema_example(schema, root, digest)
        if "one of: " in note:
            choices = note.partition("one of: ")[2].strip('",').split("; ")
            return choices[int(digest[:4], 16) % len(choices)]
        for kind, value in (("int", int(digest[:4], 16) % 100), ("float", 0.5), ("True or False", True)):
            if f"single {kind}" in note or (kind == "True or False" and kind in note):
                return value
        return f"{name} {digest[:6]}"

    def _step(self, body: dict[str, Any]) -> Any:
        """An agent's next step: as many were made as the conversation tells of."""
        text = _text(body["messages"][-1])
        made = len(set(re.findall(r"## tool_name_(\d+) ##|<tool_name_(\d+)>", text)))
        made = max(made, sum(message["role"] == "tool" for message in body["messages"]))
        return self._steps[min(made, len(self._steps) - 1)]


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [])


def _written(form: str, values: Mapping[str, Any]) -> str:
    if form == "json":
        return json.dumps(values)
    if form == "xml":
        return "\n\n".join(f"<{name}>\n{_xml(value)}\n</{name}>" for name, value in values.items())
    sections = [f"[[ ## {name} ## ]]\n{_plain(value)}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(item)}</{name}>" for name, item in value.items())
    if isinstance(value, list):
        return "".join(f"<item>{_xml(item)}</item>" for item in value)
    return _plain(value)


def _chunk(completion: dict[str, Any], delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {**completion, "object": "chat.completion.chunk", "choices": [choice], "usage": None}
