"""Optional compilation of the hot path: COMPILE_HOT_PATH=1 adds extension modules to the wheel.

Cython translates the same source to C and ignores annotations, so that the behaviour is the interpreter's. The `.py`
files are installed as well, for tracebacks; Python imports the extension modules first.
"""

import os

from setuptools import Extension, setup

NATIVE = "bidstream_svc/core/token/native.pyx"  # the Python versions are in token/text.py and token/v3.py
FLAGS = ["-O2", "-g0"]
HOT_PATH = (
    "bidstream_svc/core/crypto.py",
    "bidstream_svc/core/decrypt.py",
    "bidstream_svc/core/domains.py",
    "bidstream_svc/metrics/cells.py",
    "bidstream_svc/server/answers.py",
    "bidstream_svc/server/fastpath/connection.py",
    "bidstream_svc/server/fastpath/heads.py",
    "bidstream_svc/server/fastpath/iteration.py",
    "bidstream_svc/server/fastpath/reader.py",
    "bidstream_svc/server/batch_body.py",
    "bidstream_svc/server/handlers.py",
    "bidstream_svc/server/response_writer.py",
    "bidstream_svc/core/token/text.py",
    "bidstream_svc/core/token/v2.py",
)


def compiled() -> list[Extension]:
    """Return the extension modules of the hot path."""
    from Cython.Build import cythonize  # noqa: PLC0415 - installed only for compilation

    extensions = [
        Extension(path.rpartition(".")[0].replace("/", "."), [path], libraries=libraries, extra_compile_args=FLAGS)
        for path, libraries in [(NATIVE, ["crypto"]), *((path, []) for path in HOT_PATH)]
    ]
    directives = {"language_level": "3", "annotation_typing": False}
    return cythonize(extensions, build_dir="build/cython", compiler_directives=directives)


wanted = os.environ.get("COMPILE_HOT_PATH", "0")
if wanted not in {"0", "1"}:
    raise SystemExit("COMPILE_HOT_PATH is neither 0 nor 1")
setup(ext_modules=compiled() if wanted == "1" else [])
