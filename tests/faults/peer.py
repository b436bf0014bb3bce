"""A peer on a Unix socket that sends what it likes, whatever it is asked."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path
from typing import Self


class Peer:
    """Listens at a path while the with-block runs, in the place of whoever did."""

    def __init__(self, path: Path, answer: bytes, *, ends: bool = False, endless: bool = False):
        """`answer` is sent to whoever has connected, at once and, if `endless`, again and again;
        it `ends` the connection then."""
        self._path = path
        self._answer = answer
        self._ends = ends
        self._endless = endless
        self.connections = 0

    def __enter__(self) -> Self:
        self._aside = self._path.with_suffix(".aside")
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(self._aside)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._listening.listen(50)
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="peer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()
        self._listening.close()
        self._ended.close()
        self._path.unlink()
        with contextlib.suppress(FileNotFoundError):
            self._aside.rename(self._path)

    def _serve(self) -> None:
        clients: list[socket.socket] = []
        while True:
            sending = clients if self._endless else []
            ready, writable, _ = select.select([self._listening, self._ended], sending, [])
            if self._ended in ready:
                break
            if self._listening in ready:
                client, _ = self._listening.accept()
                client.setblocking(False)
                self.connections += 1
                clients.append(client)
                writable = [client]
            for each in writable:
                try:
                    each.send(self._answer)
                except BlockingIOError:
                    continue
                except OSError:
                    clients.remove(each)
                    each.close()
                    continue
                if self._ends:
                    clients.remove(each)
                    each.close()
        for each in clients:
            each.close()
