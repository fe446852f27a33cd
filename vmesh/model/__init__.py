"""What the user says: the inventory as plain data, its schema, the typed mesh, and mistakes in it.

What the names mean together (hosts, ports, cycles) belongs to `compile`.
"""
