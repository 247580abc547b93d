"""Benchmarks of decryption: in-process, over HTTP, and during a key refresh. README.md explains the method."""
