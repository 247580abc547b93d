"""Sends the same request several times with one call of curl, which then uses one connection, and prints each answer.

Arguments: URL; BODY; COUNT.
"""

import subprocess
import sys

url, body, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sending = ["--silent", "--header", "Content-Type: application/json", "--data", body]
printed = subprocess.run(
    # What is written out follows the body: the status on a line of its own.
    ["curl", *sending, "--write-out", "\n%{http_code}\n", *[url] * count],
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
for answer, status in zip(printed[::2], printed[1::2], strict=True):
    sys.stdout.write(f"{status} {answer}\n")
