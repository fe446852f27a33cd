"""vmesh: a traced service mesh on plain Linux VMs."""
