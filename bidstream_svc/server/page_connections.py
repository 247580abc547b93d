"""The open connections of the admin plane or the webhook; see `page_connection`."""

from bidstream_svc.metrics.cells import RefusalReason
from bidstream_svc.server.base_connection import Connection, Phase
from bidstream_svc.server.connections import Connections


class PageConnections(Connections):
    """The connections of such a plane. A new one takes the place of the one that has been unused for longest.

    So neither silent connections nor many scrapers keep out a health probe or the sender of opt-outs.
    """

    def admit(self, connection: Connection) -> bool:
        """See Connections. At the limit of this process, close a connection to make room."""
        if len(self._open) >= self.limits.max_in_process:
            self.count_refusal(RefusalReason.MAX_CONNECTIONS)
            if not self._make_room():
                return False
        return super().admit(connection)

    def mark_used(self, connection: Connection) -> None:
        """Note that a request of a connection has been answered."""
        if connection.number in self._open:
            self._open[connection.number] = self._open.pop(connection.number)

    def _make_room(self) -> bool:
        """Close the connection unused for longest, if possible one that is not being answered."""
        unused = (connection for connection in self if not _is_being_answered(connection))
        victim = next(unused, None) or next(iter(self), None)
        if victim is None:
            return False
        victim.abort()
        self.discard(victim)
        return True


def _is_being_answered(connection: Connection) -> bool:
    """Whether an answer is being made or sent, also while the client does not read it."""
    return connection.transport is not None and connection.request_phase() is Phase.RESPONSE
