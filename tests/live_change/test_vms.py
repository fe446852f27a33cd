"""What stands on the VMs, whichever mesh they have: the same tests as those of tests/live."""

from tests.live.test_vms import (
    seen,
    test_files_belong_to_root_and_are_read_by_their_service_alone,
    test_nothing_listens_that_should_not,
    test_processes_run_as_their_own_users_with_few_rights,
    test_sockets_and_settings_open_for_their_own_user_only,
    test_units_run_and_come_back_at_boot,
)

__all__ = [
    "seen",
    "test_files_belong_to_root_and_are_read_by_their_service_alone",
    "test_nothing_listens_that_should_not",
    "test_processes_run_as_their_own_users_with_few_rights",
    "test_sockets_and_settings_open_for_their_own_user_only",
    "test_units_run_and_come_back_at_boot",
]
