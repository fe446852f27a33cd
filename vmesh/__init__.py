"""vmesh: a traced service mesh on plain Linux VMs."""

# The version of the package. A test holds that of the collection, in galaxy.yml, to it.
__version__ = "0.1.0"
