"""A fleet of sidecars, simulated: what an operator, relays, Redis, receivers and the hosts themselves see.

`parameters` has what is measured or assumed, each with its source. The waits, limits and time-outs are those of
`bidstream_svc`, imported. `python -m benchmarks.fleet` runs it; see benchmarks/README.md.
"""
