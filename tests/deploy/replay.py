"""Builds the image from the Dockerfile without a container engine: by mounts, chroot and copies.

The base image is replaced by this machine's /usr and /etc, mounted read-only, and a virtual environment in /usr/local.
That of the stage `rust` gets this machine's Rust. Mounting and changing the user need root. Mounts disappear with the
process that made them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from tests.deploy.dockerfile import Instruction, Stage

# None where there is no Rust. Asked of rustc, because `cargo` may be rustup's, which starts another.
_RUSTC = shutil.which("rustc")
_RUST = (
    subprocess.run([_RUSTC, "--print=sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    if _RUSTC
    else ""
)
# Arguments: the root, pairs of directories to mount, the mode, and the arguments of chroot.
_ENTER = f"""
root=$1; shift
mount --bind "$root" "$root"
for part in /usr /etc /dev /proc {sys.base_prefix} {_RUST}; do
    mkdir -p "$root$part"
    mount --rbind "$part" "$root$part"
done
for part in /usr /etc {sys.base_prefix} {_RUST}; do mount -o remount,bind,ro "$root$part"; done
while [ "$1" != writable ] && [ "$1" != read-only ]; do
    mkdir -p "$1" "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
if [ "$1" = read-only ]; then mount -o remount,bind,ro "$root" && mount -o remount,bind,ro "$root/usr/local"; fi
shift
exec chroot "$@"
"""
_PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
_TIMEOUT_S = 900


class Container:
    """A directory used as the root of processes.

    Args:
        directory: where to create the root.
        base: the container whose /usr/local is copied; without one, a virtual environment is created there.
    """

    def __init__(self, directory: Path, base: "Container | None" = None) -> None:
        self.root = directory / "root"
        self._local = directory / "local"
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.workdir = "/"
        self.user = "0:0"
        for name in ("usr", "tmp", "root"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")
        if base is None:
            self._local.mkdir()
            self.run(f"{_PYTHON} -m venv /usr/local")
        else:
            shutil.copytree(base.inside("/usr/local"), self._local, symlinks=True)

    def command(self, *words: str, mounts: Mapping[str, str] | None = None, read_only: bool = False) -> list[str]:
        """The command that runs a program inside. It keeps its process id, so signals reach the program."""
        pairs = [str(self._local), "/usr/local"]
        pairs += [word for target, source in (mounts or {}).items() for word in (source, target)]
        return [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-euc", _ENTER, "sh", str(self.root), *pairs),
            "read-only" if read_only else "writable",
            *(f"--userspec={self.user}", "--groups=", str(self.root), "env", "-C", self.workdir),
            *(f"{name}={value}" for name, value in self.environment.items()),
            *words,
        ]

    def run(self, script: str, mounts: Mapping[str, str] | None = None) -> str:
        """Run a shell script inside and return its output."""
        done = subprocess.run(
            self.command("/bin/sh", "-euc", script, mounts=mounts),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def inside(self, path: str) -> Path:
        """The path outside of the container."""
        if path.startswith("/usr/local"):
            return self._local / path.removeprefix("/usr/local").lstrip("/")
        return self.root / path.lstrip("/")


def replay(stages: list[Stage], context: Path, directory: Path) -> Container:
    """Build the stages and return the container of the last one."""
    base = Container(directory / "base")
    containers: dict[str, Container] = {}
    for stage in stages:
        containers[stage.name] = Container(directory / stage.name, base)
        if stage.base.startswith("rust:"):
            _give_rust(containers[stage.name])
        for instruction in stage.instructions:
            _carry_out(instruction, containers[stage.name], containers, context)
    return containers[stages[-1].name]


def _give_rust(container: Container) -> None:
    programs = container.inside("/usr/local/cargo/bin")
    programs.mkdir(parents=True)
    container.inside("/usr/local/rustup").mkdir()
    for name in ("cargo", "rustc"):
        (programs / name).symlink_to(Path(_RUST, "bin", name))


def _carry_out(
    instruction: Instruction, container: Container, containers: Mapping[str, Container], context: Path
) -> None:
    match instruction.keyword:
        case "RUN":
            container.run(f"cd {container.workdir}\n{instruction.text}", _cache_mounts(instruction))
        case "COPY":
            *sources, target = instruction.words
            origin = containers[instruction.flags["from"]] if "from" in instruction.flags else None
            for source in sources:
                _copy(source, container.inside(str(Path(container.workdir, target))), origin, context)
        case "ENV":
            container.environment |= instruction.pairs
        case "WORKDIR":
            container.workdir = instruction.text
            container.inside(instruction.text).mkdir(parents=True, exist_ok=True)
        case "USER":
            container.user = instruction.text
        case "ARG" | "LABEL" | "EXPOSE" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
            pass  # read when a container is started
        case other:
            raise NotImplementedError(other)


def _copy(source: str, target: Path, origin: Container | None, context: Path) -> None:
    if origin is not None:
        shutil.copytree(origin.inside(source), target, symlinks=True)
        return
    for file in _context_files(context):
        if source == "." or Path(source) in {file, *file.parents}:
            copy = target / (file if source == "." else file.name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / file, copy)


def _context_files(context: Path) -> Iterator[Path]:
    """The files that .dockerignore includes: it is `*`, exceptions (`!`), and patterns that exclude from those."""
    rules = [line for line in (context / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    refused = [rule.removeprefix("**/") for rule in rules[1:] if rule[0] != "!"]
    for rule in rules[1:]:
        if rule[0] == "!":
            allowed = context / rule[1:]
            assert allowed.exists(), f".dockerignore: {rule}"
            for file in [allowed] if allowed.is_file() else sorted(allowed.rglob("*")):
                relative = file.relative_to(context)
                if file.is_file() and not any(fnmatch(part, rule) for part in relative.parts for rule in refused):
                    yield relative


def _cache_mounts(instruction: Instruction) -> dict[str, str]:
    """`--mount=type=cache` becomes the cache of this machine: pip's, or cargo's for its registry."""
    found = re.fullmatch(r"type=cache,target=(\S+)", instruction.flags.get("mount", "type=cache,target=/root/.cache"))
    assert found
    if found[1].endswith("/cargo/registry"):
        registry = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"), "registry")
        return {found[1]: str(registry)}
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True)
    return {found[1]: cache.stdout.strip()}
