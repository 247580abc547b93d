"""One address for several relays: a TCP forwarder that takes them in turns, and leaves out those that are down."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread

from tests.support.sidecar import DEADLINE_S


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Balancer:
    """Forwards connections.

    Attributes:
        address: where it listens.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.address = ""
        self._addresses = list(addresses)

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return server

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            for _ in range(len(self._addresses)):
                address = self._addresses.pop(0)
                self._addresses.append(address)
                host, _, port = address.rpartition(":")
                with suppress(OSError):
                    to_reader, to_writer = await asyncio.open_connection(host, int(port))
                    writers.append(to_writer)
                    await asyncio.gather(_pump(reader, to_writer), _pump(to_reader, writer))
                    return
            writer.close()
        except asyncio.CancelledError:  # the end: nobody waits for the rest
            for each in writers:
                each.transport.abort()
            raise


@contextmanager
def balanced(addresses: Sequence[str]) -> Iterator[str]:
    """The one address for all of these."""
    loop, balancer = asyncio.new_event_loop(), Balancer(addresses)
    thread = Thread(target=loop.run_forever, name="balancer")
    thread.start()

    async def stop(server: asyncio.Server) -> None:
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # transports that are aborted close their sockets in the next iteration

    try:
        server = asyncio.run_coroutine_threadsafe(balancer.start(), loop).result(DEADLINE_S)
        try:
            yield balancer.address
        finally:
            asyncio.run_coroutine_threadsafe(stop(server), loop).result(DEADLINE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
