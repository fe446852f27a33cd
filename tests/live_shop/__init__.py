"""The example shop as a client and Jaeger see it; VMESH_INVENTORY names the inventory.

Whoever runs these against a shop of their own must have services/stock/install.yml run before.
"""
