"""A rank's connection to the supervisor: two threads around a blocking socket, so that the rank never waits for it.

Messages are sent in order and never dropped; of progress only the newest is kept. Work that arrives is queued; a
cancel takes effect at once. When the supervisor is gone the process exits on the spot, so that no orphan keeps a GPU.
"""

import os
import queue
import socket
import sys
import threading
from collections import deque
from typing import NoReturn

import msgspec

from rankdeck.runner import protocol
from rankdeck.runner.protocol import FromRank, Leave, MeetingPoint, Steps, StepsInFlight, ToRank, Work

SUPERVISOR_GONE_STATUS = 70
GONE = "the supervisor is gone"


class Link:
    """The rank's end of the socket. `send` and `progress` hand over and return at once."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._orders: queue.SimpleQueue[Work | Leave] = queue.SimpleQueue()
        self._meetings: queue.SimpleQueue[MeetingPoint] = queue.SimpleQueue()
        self._cancelled_batch = 0
        self.sharing: int | None = None
        """How many ranks share the cores, as the supervisor last said."""

        self.limit: int | None = None
        """How many rows a continuous rank may generate at once, as the supervisor last said."""

        self._ready = threading.Condition()
        self._messages: deque[FromRank] = deque()
        self._progress: StepsInFlight | None = None
        self._closing = False
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        self._sender = threading.Thread(target=self._send, name="send", daemon=True)
        self._sender.start()

    def send(self, *messages: FromRank) -> None:
        """Send messages, in this order. Progress not sent yet is dropped: the messages are newer."""
        with self._ready:
            self._messages.extend(messages)
            self._progress = None
            self._ready.notify()

    def progress(self, steps: StepsInFlight) -> None:
        """Send progress, unless newer progress or a message replaces it first."""
        with self._ready:
            self._progress = steps
            self._ready.notify()

    def arrive(self, rank: int, point: MeetingPoint) -> None:
        """Say that this rank has come to `point`, for those that wait for it there."""
        self.send(protocol.Arrived(rank=rank, at=point))

    def meet(self, rank: int, point: MeetingPoint) -> None:
        """Wait until every rank of the launch has come to `point`; if one is lost on the way, this process is ended."""
        self.arrive(rank, point)
        while self._meetings.get() != point:
            pass

    def next_order(self) -> Work | Leave:
        """Wait for the next batch, or the order to leave."""
        return self._orders.get()

    def next_order_now(self) -> Work | Leave | None:
        """The next batch, or the order to leave, if one has arrived."""
        try:
            return self._orders.get_nowait()
        except queue.Empty:
            return None

    def cancelled(self, batch: int) -> bool:
        """Whether `batch` is to be abandoned."""
        return self._cancelled_batch >= batch

    def close(self) -> None:
        """Send what is left, then hang up."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._sender.join()
        self._socket.close()

    def _send(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._messages or self._progress or self._closing)
                lines = [protocol.encode_line(message) for message in self._messages]
                self._messages.clear()
                if self._progress is not None:
                    lines.append(protocol.encode_line(Steps(steps=self._progress)))
                self._progress = None
                if not lines and self._closing:
                    return
            try:
                self._socket.sendall(b"".join(lines))
            except OSError:
                self._gone(GONE)

    def _receive(self) -> None:
        decoder = msgspec.json.Decoder(ToRank)
        why = GONE
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    order = decoder.decode(line)
                    if isinstance(order, protocol.Cancel):
                        self._cancelled_batch = order.batch
                    elif isinstance(order, protocol.ShareCores):
                        self.sharing = order.ranks
                    elif isinstance(order, protocol.Limit):
                        self.limit = order.rows
                    elif isinstance(order, protocol.GoOn):
                        self._meetings.put(order.at)
                    elif isinstance(order, protocol.Refused):
                        why = f"refused by the supervisor: {order.reason}"
                        break
                    else:
                        self._orders.put(order)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            why = f"lost the connection to the supervisor: {error}"
        if not self._closing:
            self._gone(why)

    def _gone(self, why: str) -> NoReturn:
        try:
            sys.stderr.write(f"{why}; leaving\n")
        finally:
            # Even if that cannot be written: the disk is full, or the pipe is closed. Not sys.exit: the main thread
            # may be in the middle of a decode, or stuck in a collective.
            os._exit(SUPERVISOR_GONE_STATUS)
