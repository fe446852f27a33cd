from plugins.module_utils.mesh_envoy import *  # noqa: F403
