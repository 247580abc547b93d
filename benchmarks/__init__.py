"""What a decryption costs: in-process, over HTTP, and during a key refresh. README.md explains the method."""
