from plugins.module_utils.mesh_host import *  # noqa: F403
