"""What judges batches of rows: keys, kernels and an opt-out store, for any number of threads."""

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bidstream_svc.bulk.bid_row_decryptor import BidRowDecryptor
from bidstream_svc.bulk.row_decryptor import AskedKernel, RowDecryptor, remember_domains
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.keys import KeySnapshot

if TYPE_CHECKING:
    from bidstream_svc.core.kernel import Kernel
    from bidstream_svc.optouts.optout_reader import OptOutReader


class BatchKeys:
    """The keys of each programme, ready for `decrypt_batch`. Any thread may use it. It cannot be pickled.

    Args:
        snapshots: one of each programme, in the order in which they are tried.
        optouts: the opt-out store, whose raw uids are not answered; the caller closes it.

    Raises:
        ConfigurationError: there is none, or several of one programme.

    Attributes:
        snapshots: as given.
        optouts: as given.
        kernels: of each snapshot; None where there is none.
        asked_kernels: those that decrypt columns, in this order. The keys of the first that opens a token judge it in
            Python, too.
    """

    def __init__(self, snapshots: Iterable[KeySnapshot], optouts: "OptOutReader | None" = None) -> None:
        self.snapshots = tuple(snapshots)
        self.optouts = optouts
        if not self.snapshots:
            raise ConfigurationError("there are no keys")
        if len({snapshot.scope for snapshot in self.snapshots}) < len(self.snapshots):
            raise ConfigurationError("there are several key responses of one programme; merge them")
        self._local = threading.local()
        self.kernels = tuple(self._build_kernel(snapshot) for snapshot in self.snapshots)
        # With a key in common, a v2 token could open in both, and the first verdict counts, also if it is a failure.
        self._asked = [
            AskedKernel(kernel, keys, remember_domains(keys))
            for place, (keys, kernel) in enumerate(zip(self.snapshots, self.kernels, strict=True))
            if kernel is not None and not any(map(keys.shares_keys_with, self.snapshots[:place]))
        ]
        self.asked_kernels = [each.kernel for each in self._asked]

    def __repr__(self) -> str:
        """Show counts only."""
        return f"{type(self).__name__}({', '.join(map(repr, self.snapshots))})"

    def __reduce__(self) -> str:
        """Refuse to be pickled: secrets would be written in the clear."""
        raise TypeError(f"{type(self).__name__} cannot be pickled")

    def row_decryptor(self) -> RowDecryptor:
        """Return that of this thread."""
        try:
            decryptor: RowDecryptor = self._local.row_decryptor
        except AttributeError:
            check_optout = None if self.optouts is None else self.optouts.check
            decryptor = RowDecryptor(self.snapshots, self._asked, check_optout)
            self._local.row_decryptor = decryptor
        return decryptor

    def bid_row_decryptor(self, sources: Mapping[str, IdentityScope], now_ms: int) -> BidRowDecryptor:
        """Return that of this thread, for eids of these sources and for opt-outs as of `now_ms`."""
        # A kernel would judge whether the store is stale as of the row's time.
        is_native = self.optouts is None or not self.optouts.withholds_at(now_ms)
        of_options: dict[object, BidRowDecryptor] = self._local.__dict__.setdefault("bid_row_decryptors", {})
        key = (is_native, *sources.items())
        if key not in of_options:
            check_optout = None if self.optouts is None else self.optouts.check
            kernels = self.kernels if is_native else (None,) * len(self.kernels)
            of_options[key] = BidRowDecryptor(self.snapshots, kernels, check_optout, sources)
        decryptor = of_options[key]
        decryptor.now_ms = now_ms
        return decryptor

    def _build_kernel(self, snapshot: KeySnapshot) -> "Kernel | None":
        """Build the kernel of a snapshot, if it can leave to Python what may be opted out."""
        if not IS_NATIVE:
            return None
        kernel = build_kernel(snapshot)
        if self.optouts is not None:
            native_filter = self.optouts.native_filter
            if native_filter is None:
                return None
            kernel.set_optouts(native_filter)
        return kernel
