"""The lab: a mesh's virtual machines on this machine, by plain QEMU, of the calling user."""

from vmesh.lab.lab import Lab, VmStatus
from vmesh.lab.requirements import REQUIREMENTS, Requirement, missing_requirements
from vmesh.lab.spec import LabSpec, VmSpec, lab_spec
from vmesh.lab.together import LabError

__all__ = [
    "REQUIREMENTS",
    "Lab",
    "LabError",
    "LabSpec",
    "Requirement",
    "VmSpec",
    "VmStatus",
    "lab_spec",
    "missing_requirements",
]
