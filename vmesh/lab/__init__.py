"""The lab: a mesh's virtual machines on this machine, by plain QEMU, of the calling user."""

from vmesh.lab.lab import Lab, State
from vmesh.lab.requirements import REQUIREMENTS, Requirement, missing_requirements
from vmesh.lab.spec import LabSpec, VmSpec, lab_spec
from vmesh.lab.together import LabError

__all__ = [
    "REQUIREMENTS",
    "Lab",
    "LabError",
    "LabSpec",
    "Requirement",
    "State",
    "VmSpec",
    "lab_spec",
    "missing_requirements",
]
