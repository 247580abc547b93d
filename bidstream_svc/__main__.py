"""`python -m bidstream_svc`, the same as the command `bidstream-svc`."""

from bidstream_svc.cli import main

if __name__ == "__main__":
    main()
