"""What the user says: the inventory as plain data, its schema, the typed mesh, messages of mistakes.

What the names mean together (hosts, ports, cycles) belongs to `compile`.
"""
