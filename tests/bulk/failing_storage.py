"""Storage of fsspec that fails on demand with exceptions of its own library, as S3 and Google Cloud Storage do."""

from collections.abc import Callable
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

SECRET = "key AKIA123 is not valid"


class EndpointConnectionError(Exception):
    """As botocore's: no OSError."""


class FailingFile:
    """An open file that fails at an operation, or not."""

    def __init__(self, file: Any, fail: Callable[[str], None]) -> None:
        self._file = file
        self._fail = fail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *args: int) -> bytes:
        self._fail("read")
        return bytes(self._file.read(*args))

    def write(self, data: Any) -> int:
        self._fail("write")
        return int(self._file.write(data))

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            self._fail("close")


class FailingStorage(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory; an operation fails on files with a part in their name."""

    protocol = "failing"
    store: dict[str, Any] = {}  # noqa: RUF012 - as of its base
    pseudo_dirs = [""]  # noqa: RUF012
    fails: tuple[str, str] | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("failing://", "memory://")))

    @classmethod
    def check(cls, operation: str, path: str) -> None:
        if cls.fails is not None and cls.fails[0] == operation and cls.fails[1] in path:
            raise EndpointConnectionError(SECRET)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self.check("open" if mode == "rb" else "create", path)
        kinds = {"read"} if mode == "rb" else {"write", "close"}
        file = super().open(path, mode, **options)
        return FailingFile(file, lambda operation: self.check(operation, path) if operation in kinds else None)

    def info(self, path: str, **options: Any) -> Any:
        self.check("info", path)
        return super().info(path, **options)

    def ls(self, path: str, *args: Any, **options: Any) -> Any:
        self.check("ls", path)
        return super().ls(path, *args, **options)

    def mkdir(self, path: str, *args: Any, **options: Any) -> None:
        self.check("mkdir", path)
        super().mkdir(path, *args, **options)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        self.check("mv", path2)
        super().mv(path1, path2, **options)
