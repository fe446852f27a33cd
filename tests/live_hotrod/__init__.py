"""HotROD on VMs: programs that are not of this project, with spans of their own.

Whoever runs these against an inventory of their own must have services/hotrod/install.yml run
before.
"""
