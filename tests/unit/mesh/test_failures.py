from __future__ import annotations

from vmesh.base.failures import cause


def test_of_a_loop_what_failed_tells_each_reason_once() -> None:
    full = {"failed": True, "msg": "non-zero return code", "stderr": "no space left"}
    gone = {"unreachable": True, "msg": "timed out"}
    assert cause({"msg": "One failed", "results": [{"msg": "fine"}, full, full, gone]}) == (
        "no space left\ntimed out"
    )


def test_what_a_module_wrote_beside_its_message_follows_it() -> None:
    told = {"msg": "MODULE FAILURE", "module_stderr": "Traceback", "stderr": "MODULE FAILURE"}
    assert cause(told) == "MODULE FAILURE\nTraceback"


def test_one_who_says_nothing_is_told_too() -> None:
    assert cause({"failed": True}) == "no reason was given"
