"""Reaching the mesh of an inventory from the controller: by ssh, by HTTP, by ansible-playbook.

The commands and the benchmarks share it. What a command prints belongs to `cli`; starting VMs
belongs to `lab`; what a run does on the hosts, to `rollout` and the playbooks.
"""
