"""Which columns say what, and how they are judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import SOURCES


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How `decrypt_batch` reads and judges rows. Plain values only: it can be pickled, and its `asdict` is JSON.

    Attributes:
        token_column: has the tokens.
        domain_column: has the sites' domains or apps' bundle ids; None for `domain`, if there is such a column.
        scope_column: has the programmes of version 2 tokens: UID2, EUID, or null or empty for one that is not known.
        scope: the programme of all version 2 tokens.
        time_column: has the times as of which tokens are judged.
        at_ms: Unix ms as of which all tokens are judged. With neither this nor `time_column`, that is now.
        bid_request_column: has bid requests in JSON. The columns of tokens, domains and programmes do not count then.
        sources: the programme of each `source` of an eid, in lower case.
        keep_tokens: whether the column of the tokens, or of the bid requests, is in the output.

    Raises:
        ConfigurationError: two of them contradict each other.
    """

    token_column: str = "token"  # noqa: S105 - a name
    domain_column: str | None = None
    scope_column: str | None = None
    scope: IdentityScope | None = None
    time_column: str | None = None
    at_ms: int | None = None
    bid_request_column: str | None = None
    sources: Mapping[str, IdentityScope] = field(default_factory=lambda: dict(SOURCES))
    keep_tokens: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.scope_column is not None and self.scope is not None:
            raise ConfigurationError("a scope (--scope) and a scope column (--scope-column) are given; leave one out")
        if self.time_column is not None and self.at_ms is not None:
            raise ConfigurationError("a time (--at) and a time column (--time-column) are given; leave one out")

    @property
    def input_column(self) -> str:
        """The column of the tokens, or of the bid requests."""
        return self.token_column if self.bid_request_column is None else self.bid_request_column

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that are read, and that a log has to have."""
        others = (
            (self.time_column,)
            if self.bid_request_column
            else (self.domain_column, self.scope_column, self.time_column)
        )
        return (self.input_column, *(name for name in others if name is not None))
