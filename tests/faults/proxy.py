"""A connection between an MLflow client and its server that can fail in every way that matters."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

# What happens to a request. `cut_request`: its head and a part of its body reach the server; `cut_response`: all of it does, and the answer
# is lost half-way.
PASS, HANG, ERROR, CUT_REQUEST, CUT_RESPONSE = "pass", "hang", "error", "cut_request", "cut_response"
METHODS = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")
ANSWER_500 = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
CHUNK = 65536
STARTS_WITHIN_S = 180


class Proxy:
    """Listens on a port of its own. `fate`: what becomes of a request, by its number since it was set and its first line."""

    def __init__(self, server: int = 0) -> None:
        self.server = server
        self.requests = 0
        self.heads: list[bytes] = []
        self._fate: Callable[[int, str], str] = lambda n, line: PASS
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self.port = 0
        self.come_back()

    @property
    def uri(self) -> str:
        """Where a client finds the server."""
        return f"http://127.0.0.1:{self.port}"

    def decide(self, fate: str | Callable[[int, str], str]) -> None:
        """Treat requests so from now on."""
        with self._lock:
            self.requests = 0
            self._fate = fate if callable(fate) else lambda n, line: fate

    def refuse(self) -> None:
        """Be away: nobody listens, and what was connected is cut."""
        if self._listener is not None:
            # Wakes the thread that waits for connections, which a close alone doesn't.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        """Listen, on the same port as before, if that isn't so already."""
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        with client, suppress(OSError):
            self._relay(client)
        self._open.discard(client)

    def _relay(self, client: socket.socket) -> None:
        fate, upstream = PASS, None
        try:
            while True:
                ready, _, _ = select.select([client, *([upstream] if upstream else [])], [], [])
                if client in ready:
                    sent = client.recv(CHUNK)
                    if not sent:
                        return
                    fate = self._fate_of(sent, fate)
                    if fate == ERROR:
                        client.sendall(ANSWER_500)
                        return
                    if fate == HANG:
                        continue
                    upstream = upstream or socket.create_connection(("127.0.0.1", self.server))
                    is_cut = fate == CUT_REQUEST and not _is_head_of_more(sent)
                    upstream.sendall(sent[: len(sent) // 2] if is_cut else sent)
                    if is_cut:
                        return
                elif upstream is not None:
                    answer = upstream.recv(CHUNK)
                    if not answer:
                        return
                    client.sendall(answer[: len(answer) // 2] if fate == CUT_RESPONSE else answer)
                    if fate == CUT_RESPONSE:
                        return
        finally:
            if upstream is not None:
                upstream.close()

    def _fate_of(self, sent: bytes, before: str) -> str:
        """A new request is decided on; what else comes belongs to the one before."""
        if not sent.startswith(METHODS):
            return before
        with self._lock:
            self.requests += 1
            self.heads.append(sent.partition(b"\r\n\r\n")[0])
            return self._fate(self.requests, sent.partition(b"\r\n")[0].decode("latin-1"))


def _is_head_of_more(sent: bytes) -> bool:
    """Whether this is the head of a request whose body comes by itself."""
    return sent.startswith(METHODS) and sent.endswith(b"\r\n\r\n") and not sent.startswith((b"GET ", b"DELETE "))


@contextmanager
def proxied(server: int = 0) -> Iterator[Proxy]:
    """A proxy, away in the end."""
    proxy = Proxy(server)
    try:
        yield proxy
    finally:
        proxy.refuse()


@contextmanager
def running_server(root: Path) -> Iterator[int]:
    """A server over the store in `root`, its artifacts under `root/served`; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_AI_GATEWAY": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{root}/mlflow.db"]
    command += ["--artifacts-destination", str(root / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(root / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    until = monotonic() + STARTS_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert process.poll() is None and monotonic() < until, "the MLflow server does not start"
            sleep(0.1)
