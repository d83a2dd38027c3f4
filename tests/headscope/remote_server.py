"""A server as NDIF's is to its clients, on a port of this machine; `python remote_server.py` prints its address.

It has torch, transformers and nnsight, and refuses to import anything of headscope's, or the checkers of annotations.
A client subscribes by a websocket, posts a request to `/request`, and is told on the websocket how it went.
"""

import base64
import email
import hashlib
import io
import json
import sys
import threading
import traceback
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.abc import MetaPathFinder

ABSENT = frozenset("headscope interventions head_analysis tasks probes experiments jaxtyping beartype".split())
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Absent(MetaPathFinder):
    """Finds none of these packages, wherever they are."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"{fullname} is not installed on this server", name=fullname)


class Models:
    """Loads each model once, and runs one request at a time."""

    def __init__(self):
        self.loaded, self.lock = {}, threading.Lock()

    def run(self, meta, blob):
        """The saved values, as bytes."""
        import torch
        import zstandard
        from nnsight import TransformersModel
        from nnsight.schema.request import RequestModel
        from nnsight.tracing.tracer import _saves, dec, inc

        key, compress = meta["model_key"], meta["compress"]
        with self.lock:
            if key not in self.loaded:
                if "missing" in key:
                    raise LookupError(f"model {key} is not deployed")
                self.loaded[key] = TransformersModel.from_model_key(key, dispatch=True)
                self.loaded[key]._module.requires_grad_(False)
            model = self.loaded[key]
            model._remoteable_set_env(meta["env"])
            tracer = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compress)
            inc()
            try:
                tracer.execute(tracer.info.code)
                names = tracer.info.frame.f_locals
                saved = {name: value for name, value in names.items() if id(value) in _saves()}
            finally:
                dec()
        with io.BytesIO() as file:
            torch.save(saved, file)
            content = file.getvalue()
        return zstandard.ZstdCompressor().compress(content) if compress else content


MODELS, SOCKETS, RESULTS = Models(), {}, {}
LARGE = 100_000
"""Bytes from which on a result is fetched by its address, and not sent on the websocket."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path in RESULTS:
            return self._answer(RESULTS.pop(self.path), "application/octet-stream")
        accept = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + _MAGIC).digest()).decode()
        self.send_response(101, "Switching Protocols")
        for name, value in {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}.items():
            self.send_header(name, value)
        self.end_headers()
        session = uuid.uuid4().hex
        SOCKETS[session] = self.wfile
        _send(self.wfile, json.dumps({"session_id": session}).encode(), text=True)
        self.rfile.read(1)  # all that a client says is that it goes
        self.wfile.write(b"\x88\x00")
        self.close_connection = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = email.message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        meta = json.loads(parts["data"].get_payload(decode=True))
        blob = parts["blob"].get_payload(decode=True)
        job = uuid.uuid4().hex
        self._answer(json.dumps({"id": job, "status": "RECEIVED"}).encode(), "application/json")
        here = f"http://{self.headers['Host']}"
        threading.Thread(target=_work, args=(job, meta, blob, here), daemon=True).start()

    def _answer(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _work(job, meta, blob, here):
    from nnsight.schema.response import ResponseModel, Status

    socket = SOCKETS[meta["session_id"]]
    _send(socket, ResponseModel(id=job, status=Status.RUNNING).model_dump_json().encode(), text=True)
    try:
        content = MODELS.run(meta, blob)
        if len(content) > LARGE:
            RESULTS[f"/{job}"] = content
            done = ResponseModel(id=job, status=Status.COMPLETED, data=f"{here}/{job}")
            _send(socket, done.model_dump_json().encode(), text=True)
        else:
            done = ResponseModel(id=job, status=Status.COMPLETED, data=content)
            _send(socket, done.pickle(), text=False)
    except Exception:
        failed = ResponseModel(id=job, status=Status.ERROR, description=traceback.format_exc())
        _send(socket, failed.model_dump_json().encode(), text=True)


def _send(file, content, *, text):
    """One frame of a websocket, which a server does not mask."""
    size = len(content)
    if size < 126:
        length = bytes([size])
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    file.write(bytes([0x81 if text else 0x82]) + length + content)
    file.flush()


if __name__ == "__main__":
    sys.path = [place for place in sys.path if "site-packages" in place or "/lib/python" in place]
    sys.meta_path.insert(0, Absent())
    import nnsight  # noqa: F401  # before anything is asked

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
