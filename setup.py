"""What is built: the native kernel, and with COMPILE_HOT_PATH=1 a compiled hot path.

The kernel (bidstream_svc/core/kernel/) is a Rust crate, for one extension module for every Python from 3.11 on. It is
built where cargo is and has the crates of Cargo.lock or can download them; nothing else is ever downloaded. Elsewhere
the program runs without it, and one line of the build's output says what is missing. With BUILD_KERNEL=1 that is an
error; with BUILD_KERNEL=0 the kernel is not built.

Cython translates the source of the hot path to C and ignores annotations, so that the behaviour is the interpreter's.
The `.py` files are installed as well, for tracebacks; Python imports the extension modules first.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools_rust import RustExtension, build_rust

MANIFEST = "bidstream_svc/core/kernel/Cargo.toml"
# Neither a toolchain nor a component: `cargo` may be rustup's, which downloads what is missing.
CARGO_ENVIRONMENT = os.environ | {"RUSTUP_AUTO_INSTALL": "0", "CARGO_NET_RETRY": "1", "CARGO_HTTP_TIMEOUT": "20"}
CARGO_ENVIRONMENT.setdefault("CARGO_TARGET_DIR", str(Path("build/cargo").absolute()))

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


class BuildKernel(build_rust):
    """Builds the kernel, or says in one line why not."""

    def run(self) -> None:
        """Build it."""
        problem = missing_for_kernel()
        if problem is None:
            try:
                super().run()
            except Exception as error:
                problem = "cargo failed"
                if is_required("BUILD_KERNEL"):
                    raise SystemExit(f"the native kernel cannot be built: {problem}") from error
            else:
                return
        if is_required("BUILD_KERNEL"):
            raise SystemExit(f"the native kernel cannot be built: {problem}")
        print(f"built without the native kernel: {problem}", file=sys.stderr)


def missing_for_kernel() -> str | None:
    """Return what is missing to build the kernel, or None."""
    needed = tomllib.loads(Path(MANIFEST).read_text())["package"]["rust-version"]
    version = run_cargo("--version")
    if version is None:
        return f"cargo {needed} or newer is not installed"
    found = re.match(r"cargo (\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < tuple(map(int, needed.split("."))):
        return f"cargo {needed} or newer is needed, and this is {version.strip()}"
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        return "a C compiler is not installed"
    if run_cargo("fetch", "--locked", "--manifest-path", MANIFEST) is None:
        return "the crates of Cargo.lock cannot be downloaded"
    return None


def run_cargo(*arguments: str) -> str | None:
    """Return what cargo prints, or None if it fails or is missing."""
    cargo = os.environ.get("CARGO", "cargo")
    try:
        return subprocess.run(
            [cargo, *arguments], env=CARGO_ENVIRONMENT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def compiled() -> list[Extension]:
    """Return the extension modules of the hot path."""
    from Cython.Build import cythonize  # noqa: PLC0415 - installed only for compilation

    extensions = [
        Extension(path.rpartition(".")[0].replace("/", "."), [path], libraries=libraries, extra_compile_args=FLAGS)
        for path, libraries in [(NATIVE, ["crypto"]), *((path, []) for path in HOT_PATH)]
    ]
    directives = {"language_level": "3", "annotation_typing": False}
    return cythonize(extensions, build_dir="build/cython", compiler_directives=directives)


def is_required(variable: str, default: str | None = None) -> bool | None:
    """Read a variable that is 0 or 1; None if it is not set."""
    value = os.environ.get(variable, default)
    if value not in {"0", "1", None}:
        raise SystemExit(f"{variable} is neither 0 nor 1")
    return None if value is None else value == "1"


is_compiled = is_required("COMPILE_HOT_PATH", "0")
arguments: dict[str, Any] = {"ext_modules": compiled() if is_compiled else []}
if is_required("BUILD_KERNEL") is not False:
    arguments |= {
        "rust_extensions": [
            RustExtension(
                "bidstream_svc.core.kernel._native",
                MANIFEST,
                cargo_manifest_args=["--locked"],
                quiet=True,
                debug=False,
                env=CARGO_ENVIRONMENT,
            )
        ],
        "cmdclass": {"build_rust": BuildKernel},
        # A module that Cython makes is for one version of Python.
        "options": {} if is_compiled else {"bdist_wheel": {"py_limited_api": "cp311"}},
    }
setup(**arguments)
