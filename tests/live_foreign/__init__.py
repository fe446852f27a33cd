"""vmesh as a user without a checkout has it, against the VMs of a running mesh."""
