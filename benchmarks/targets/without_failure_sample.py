"""`bidstream-svc serve` without the sample of failing tokens: `/failures` stays empty."""

import runpy
import sys
from unittest import mock

if __name__ == "__main__":
    sys.argv[1:] = ["serve"]
    with mock.patch("bidstream_svc.server.service.FailureRecorder", return_value=None):
        runpy.run_module("bidstream_svc", run_name="__main__")
