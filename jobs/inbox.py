"""The keeper's end of the wake FIFO."""

from __future__ import annotations

import asyncio
import os

from jobs.keeping import CANCEL, LEAVE
from jobs.paths import Home


class Inbox:
    """Orders to the keeper. While it is open, whoever sends finds somebody who listens."""

    def __init__(self, home: Home) -> None:
        self._wake = home.wake
        self._fd = -1
        self._called = asyncio.Event()
        self.leave = False  #: whether the keeper was asked to leave
        self.to_cancel: set[str] = set()  #: jobs whose cancel could not be written down

    def open(self) -> None:
        if not self._wake.is_fifo():
            self._wake.unlink(missing_ok=True)
            os.mkfifo(self._wake, 0o600)
        # Opened for both, so that it never reads as ended when a writer closes it.
        self._fd = os.open(self._wake, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._fd, self._receive)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _receive(self) -> None:
        for order in os.read(self._fd, 65536).split(b"\n"):
            if order.startswith(CANCEL):
                self.to_cancel.add(order[len(CANCEL) :].decode("ascii", "replace"))
            self.leave = self.leave or order == LEAVE
        self._called.set()

    def call(self) -> None:
        """End the wait, or the next one."""
        self._called.set()

    def forget_calls(self) -> None:
        self._called.clear()

    async def wait(self, seconds: float) -> None:
        """Until there has been a call since the last were forgotten, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._called.wait()
        except TimeoutError:
            pass
