"""How a change gets to hosts: desired state, batches, record, history, changes, drift, run lock.

What happens on a host belongs to plugins/module_utils; what the inventory means, to `compile`.
"""
