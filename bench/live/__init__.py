"""What speaks to a running mesh from the controller: requests, Jaeger's answers, site.yml, ssh.

The benchmarks and the tests on VMs share it. What only tests ask (a VM through testinfra, a
browser) belongs in `tests/live`; load at a constant rate belongs in `bench/load`.
"""
