"""Tests of a running mesh, from outside and on its VMs; VMESH_INVENTORY names the inventory."""
