"""Checks for your own pytest files, on any network: the ones cnnarch's own suite uses.

`CHECKS` has one function for each claim of the contract. Each takes a network, leaves it as it
is, and raises AssertionError with what it found. Most need milliseconds; those that compile and
export need a second::

    import pytest
    from cnnarch.testing import CHECKS, assert_parameters

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_network_keeps_the_contract(check):
        check(MyNetwork(num_classes=10))

    def test_my_network_has_the_parameters_of_the_paper():
        assert_parameters(MyNetwork(num_classes=10), 1_234_567)

`check_classifier` runs them all:

>>> import cnnarch
>>> check_classifier(cnnarch.convnet())
"""

from collections.abc import Callable

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.testing.assertions import (
    assert_close,
    assert_macs,
    assert_parameters,
    assert_stage_shapes,
)
from cnnarch.testing.compiling import (
    check_compiles_to_one_graph,
    check_exports_with_a_dynamic_batch,
    check_traces,
    check_traces_symbolically,
)
from cnnarch.testing.copying import (
    check_channels_last,
    check_copies_and_pickles_agree,
    check_foreign_keys_get_a_hint,
    check_meta_device,
    check_state_dict_has_everything,
    check_state_dict_round_trip,
)
from cnnarch.testing.examples import calibrate, example_images
from cnnarch.testing.features import (
    check_cam_layer,
    check_feature_info,
    check_head_reads_the_last_map,
    check_reset_classifier,
    check_stages_come_in_the_order_asked,
)
from cnnarch.testing.learning import (
    check_bfloat16_autocast,
    check_checkpointing_changes_nothing,
    check_checkpointing_recomputes,
    check_every_module_is_called,
    check_every_parameter_gets_a_gradient,
    check_frozen_parts_stay_in_eval_mode,
)
from cnnarch.testing.outputs import (
    check_eval_mode_changes_nothing,
    check_logits,
    check_logits_are_not_probabilities,
    check_min_input_size_is_tight,
    check_odd_and_oblong_images,
    check_one_image_equals_its_batch,
    check_wrong_input_is_named,
)
from cnnarch.testing.watching import (
    check_gradients_of_samples,
    check_hooks_keep_what_they_see,
    check_modules_are_used_once,
    check_replaced_forwards_keep_what_they_give,
)

CHECKS: tuple[Callable[[ImageClassifier], None], ...] = (
    check_logits,
    check_logits_are_not_probabilities,
    check_eval_mode_changes_nothing,
    check_one_image_equals_its_batch,
    check_odd_and_oblong_images,
    check_min_input_size_is_tight,
    check_wrong_input_is_named,
    check_head_reads_the_last_map,
    check_stages_come_in_the_order_asked,
    check_feature_info,
    check_cam_layer,
    check_reset_classifier,
    check_every_parameter_gets_a_gradient,
    check_every_module_is_called,
    check_modules_are_used_once,
    check_checkpointing_changes_nothing,
    check_checkpointing_recomputes,
    check_bfloat16_autocast,
    check_frozen_parts_stay_in_eval_mode,
    check_hooks_keep_what_they_see,
    check_replaced_forwards_keep_what_they_give,
    check_gradients_of_samples,
    check_state_dict_has_everything,
    check_state_dict_round_trip,
    check_foreign_keys_get_a_hint,
    check_copies_and_pickles_agree,
    check_meta_device,
    check_channels_last,
    check_traces_symbolically,
    check_traces,
    check_compiles_to_one_graph,
    check_exports_with_a_dynamic_batch,
)
"""Every check of the contract, the quick ones first."""

__all__ = [
    "CHECKS",
    "assert_close",
    "assert_macs",
    "assert_parameters",
    "assert_stage_shapes",
    "calibrate",
    "check_bfloat16_autocast",
    "check_cam_layer",
    "check_channels_last",
    "check_checkpointing_changes_nothing",
    "check_checkpointing_recomputes",
    "check_classifier",
    "check_compiles_to_one_graph",
    "check_copies_and_pickles_agree",
    "check_eval_mode_changes_nothing",
    "check_every_module_is_called",
    "check_every_parameter_gets_a_gradient",
    "check_exports_with_a_dynamic_batch",
    "check_feature_info",
    "check_foreign_keys_get_a_hint",
    "check_frozen_parts_stay_in_eval_mode",
    "check_gradients_of_samples",
    "check_head_reads_the_last_map",
    "check_hooks_keep_what_they_see",
    "check_logits",
    "check_logits_are_not_probabilities",
    "check_meta_device",
    "check_min_input_size_is_tight",
    "check_modules_are_used_once",
    "check_odd_and_oblong_images",
    "check_one_image_equals_its_batch",
    "check_replaced_forwards_keep_what_they_give",
    "check_reset_classifier",
    "check_stages_come_in_the_order_asked",
    "check_state_dict_has_everything",
    "check_state_dict_round_trip",
    "check_traces",
    "check_traces_symbolically",
    "check_wrong_input_is_named",
    "example_images",
]


def check_classifier(model: ImageClassifier) -> None:
    """Fail unless `model` keeps cnnarch's contract: run every one of `CHECKS`.

    Args:
        model: a network that has a classifier; it stays as it is.

    Raises:
        AssertionError: a claim does not hold; the message says what was found.
    """
    for check in CHECKS:
        check(model)
