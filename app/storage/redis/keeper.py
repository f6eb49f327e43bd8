"""The process between the embedded Redis and those who use it; runs alone, on the standard library only (ADR-0005).

    python keeper.py LISTENER_FD DIRECTORY SERVER_SOCKET SERVER_COMMAND...

It starts the server, starts it again when it dies, and says `ready` to everyone who connects to its socket. A connection
is a user: the kernel closes it however that process ends. When the last one is closed the keeper stops the server and
ends. The start lock, which users hold while they connect and which the keeper holds from its last look at the socket
until the server is gone, keeps the two from missing each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_LOCK, SERVER_LOCK, KEEPER_SOCKET = "start.lock", "server.lock", "keeper.sock"
READY, FAILED = b"ready\n", b"failed\n"
_STOP_TIME = 1.5  # seconds for the server to end by itself; it has to be gone 2 s after its last user
_TAKEOVER_TIME = 5.0  # seconds for the server of a killed keeper to be gone
_TICK = 0.01  # seconds between two looks while something is about to happen
_PR_SET_PDEATHSIG = 1


class Keeper:
    """Keeps one server running for as long as it has users."""

    def __init__(self, listener: socket.socket, directory: Path, server_socket: str, command: list[str]) -> None:
        self._listener = listener
        self._directory = directory
        self._server_socket = server_socket
        self._command = command
        self._users: set[socket.socket] = set()
        self._server: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> bool:
        """Serve until the last user is gone; False: the server cannot be started."""
        if not self._take_over():
            return self._give_up()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_on_child(), selectors.EVENT_READ)
        self._start()
        while True:
            about_to_change = not self._is_ready or not self._users
            for key, _ in self._selector.select(_TICK if about_to_change else None):
                self._on_event(key.fileobj)
            if self._server is not None and self._server.poll() is not None:
                if not self._is_ready:
                    return self._give_up()  # it never came up, so it would not come up the next time
                self._start()
            if not self._is_ready and self._server_answers():
                self._is_ready = True
                for user in tuple(self._users):
                    self._tell(user, READY)
            if not self._users and self._end():
                return True

    def _take_over(self) -> bool:
        """Wait for the server of a keeper that was killed: two must never write one file."""
        lock = os.open(self._directory / SERVER_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(lock, True)  # the server holds it too, for as long as it lives
        self._lock = lock
        give_up = time.monotonic() + _TAKEOVER_TIME
        while not locked(lock):
            if time.monotonic() > give_up:
                return False
            with contextlib.suppress(OSError), self._connect() as old:  # where the kernel does not tell it, we do
                old.sendall(b"SHUTDOWN NOSAVE\r\n")
            time.sleep(_TICK)
        return True

    def _start(self) -> None:
        self._is_ready = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._server_socket)
        keeper = os.getpid()
        self._server = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._lock,),
            preexec_fn=lambda: _end_with(keeper),
        )

    def _on_event(self, source: object) -> None:
        if source is self._listener:
            try:
                user, _ = self._listener.accept()
            except OSError:  # whoever knocked is gone again
                return
            user.setblocking(False)
            self._users.add(user)
            self._selector.register(user, selectors.EVENT_READ)
            if self._is_ready:
                self._tell(user, READY)
        elif isinstance(source, socket.socket):
            try:
                is_gone = source.recv(4096) == b""
            except BlockingIOError:
                is_gone = False
            except OSError:
                is_gone = True
            if is_gone and source in self._users:
                self._forget(source)

    def _tell(self, user: socket.socket, what: bytes) -> None:
        try:
            user.sendall(what)
        except OSError:
            self._forget(user)

    def _forget(self, user: socket.socket) -> None:
        self._users.discard(user)
        self._selector.unregister(user)
        user.close()

    def _end(self) -> bool:
        """Stop the server if nobody is on the way in; the lock is given back by ending."""
        start_lock = os.open(self._directory / START_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        if not locked(start_lock) or self._is_knocked():
            os.close(start_lock)
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._listener.getsockname())
        self._stop()
        return True

    def _is_knocked(self) -> bool:
        with selectors.DefaultSelector() as look:
            look.register(self._listener, selectors.EVENT_READ)
            return bool(look.select(0))

    def _stop(self) -> None:
        assert self._server is not None
        self._server.terminate()
        try:
            self._server.wait(_STOP_TIME)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _give_up(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._users.add(self._listener.accept()[0])
        for user in self._users:
            with contextlib.suppress(OSError):
                user.sendall(FAILED)
        return False

    def _connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(1.0)
        try:
            client.connect(self._server_socket)
        except OSError:
            client.close()
            raise
        return client

    def _server_answers(self) -> bool:
        with contextlib.suppress(OSError), self._connect() as client:
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")  # while it reads its file it says -LOADING
        return False

    @staticmethod
    def _wake_on_child() -> socket.socket:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer.detach())
        return reader


def locked(fd: int) -> bool:
    """Take the lock without waiting; False: another process has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_with(keeper: int) -> None:
    """In the child: end by SIGTERM, which the kernel sends when the keeper is killed (Linux only)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the keeper ignores it, and that would be inherited
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != keeper:
            os._exit(1)


def main() -> None:
    """Leave the process that started us, and keep."""
    if os.fork():
        os._exit(0)
    # Who stops the service stops all its processes at once, but the service still needs us while it drains.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.setblocking(False)
    os.set_inheritable(listener.fileno(), False)
    sys.exit(not Keeper(listener, Path(sys.argv[2]), sys.argv[3], sys.argv[4:]).run())


if __name__ == "__main__":
    main()
