"""HTTP clients in their default settings: how their programs are built and run.

Each program sends the same request several times and prints a line for each answer: the status, a blank, the body.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CLASSPATH_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"


@dataclass(frozen=True)
class Client:
    """A client.

    Attributes:
        name: also that of the file with its heads.
        library: what sends the requests, for that file.
        tools: what the program needs.
        build: makes the program, in a directory for what it makes, and returns the command that runs it.
    """

    name: str
    library: str
    tools: tuple[str, ...]
    build: Callable[[Path], Sequence[str]]

    def send(self, directory: Path, url: str, body: str, count: int) -> list[tuple[int, str]]:
        """Send requests and return the statuses and bodies of the answers."""
        command = [*self.build(directory), url, body, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answers = [line.partition(" ") for line in done.stdout.splitlines()]
        return [(int(status), answer) for status, _, answer in answers]


def _python(name: str) -> Client:
    return Client(name, f"{name} for Python", (name,), lambda _: [sys.executable, str(HERE / "python_client.py"), name])


def _node(name: str, library: str) -> Client:
    def build(directory: Path) -> Sequence[str]:
        for file in (HERE / "node").iterdir():
            if file.is_file():
                (directory / file.name).write_bytes(file.read_bytes())
        if not (directory / "node_modules").exists():
            subprocess.run(["npm", "ci", "--ignore-scripts", "--silent"], cwd=directory, check=True)
        return ["node", str(directory / "client.js"), name]

    return Client(f"node_{name}", library, ("node", "npm"), build)


def _java(name: str, library: str) -> Client:
    def build(directory: Path) -> Sequence[str]:
        listing = directory / "classpath"
        if not listing.exists():
            pom = str(HERE / "java" / "pom.xml")
            command = ["mvn", "--batch-mode", "--quiet", "--file", pom, CLASSPATH_GOAL, f"-Dmdep.outputFile={listing}"]
            subprocess.run(command, check=True, capture_output=True)
        path = f"{directory}:{listing.read_text()}"
        command = ["javac", "-cp", path, "-d", str(directory), str(HERE / "java" / "StockClient.java")]
        subprocess.run(command, check=True)
        return ["java", "-cp", path, "StockClient", name]

    return Client(f"java_{name}", library, ("javac", "java", "mvn"), build)


def _go(directory: Path) -> Sequence[str]:
    program = directory / "client"
    subprocess.run(["go", "build", "-trimpath", "-o", str(program), "."], cwd=HERE / "go", check=True)
    return [str(program)]


def _rust(directory: Path) -> Sequence[str]:
    manifest = str(HERE / "rust" / "Cargo.toml")
    target = directory / "cargo"
    command = ["cargo", "build", "--locked", "--quiet", "--manifest-path", manifest, "--target-dir", str(target)]
    subprocess.run(command, check=True)
    return [str(target / "debug" / "stock-client")]


def _curl(_directory: Path) -> Sequence[str]:
    return [sys.executable, str(HERE / "curl_client.py")]


CLIENTS = [
    Client("go_net_http", "net/http of Go", ("go",), _go),
    _java("jdk", "java.net.http.HttpClient in its default HTTP/2 mode"),
    _java("okhttp", "OkHttp 5"),
    _java("apache4", "Apache HttpClient 4"),
    _java("apache5", "Apache HttpClient 5"),
    _node("http", "http of Node.js"),
    _node("fetch", "the global fetch of Node.js"),
    _node("undici", "undici"),
    _node("axios", "axios"),
    Client("rust_reqwest", "reqwest", ("cargo",), _rust),
    Client("curl", "curl, the command line", ("curl",), _curl),
    *map(_python, ("aiohttp", "httpx", "requests", "urllib3")),
]
