"""Jaeger's answers, hosts' clocks, and the waterfall that a terminal can show. No I/O here."""
