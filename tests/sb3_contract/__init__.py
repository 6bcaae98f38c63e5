"""
What SB3's test suite requires of an algorithm, tested for PREFINE. The tests are our own.

======================================================  ================================================================
SB3 (file::test)                                        here (``test_*`` without a folder is in ``tests/sb3_contract``)
======================================================  ================================================================
test_save_load::test_save_load                          test_save_load, test_base_class (parameters), tests/test_prefine
test_save_load::test_exclude_include_saved_params       test_save_load (also preferences and custom_objects)
test_save_load::test_set_env, test_env_auto_monitor…    test_save_load ("Environments"), test_cnn
test_save_load::test_save_load_policy                   test_save_load; exports of policies: tests/test_prefine
test_save_load::test_cast_lr_schedule                   test_save_load
test_save_load: files, folders, file objects            test_save_load; failing writes: tests/test_prefine
test_save_load: nothing is unpickled (not SB3's)        tests/training/test_saving, tests/reference/test_sb3_zip
test_deterministic::test_deterministic_training_common  test_deterministic; equal and other seeds: tests/test_prefine
test_predict::test_predict                              test_predict
test_callbacks::test_callbacks                          test_callbacks; PREFINE's own: tests/test_callbacks
test_callbacks::test_callbacks_can_cancel_runs          test_callbacks, tests/test_prefine
test_callbacks::test_checkpoint_additional_info         test_callbacks
test_callbacks::test_eval_friendly_error                test_callbacks
test_callbacks: the progress bar                        test_callbacks; our own bar: tests/training/test_progress_bar
test_spaces::test_action_spaces                         test_spaces; what is learnt: tests/test_prefine, test_families
test_spaces::test_float64_action_space                  test_spaces
test_dict_env::test_dict_spaces                         test_spaces; every policy family: tests/test_families
test_dict_env::test_vec_normalize                       test_vec_normalize
test_vec_normalize                                      test_vec_normalize, tests/reference/test_normalizer
test_train_eval_mode::test_predict_with_dropout_…       test_train_eval_mode; CrossQ: tests/test_prefine
test_distributions::test_squashed_gaussian              tests/policies/test_likelihood (also actions on the bounds)
test_sde::test_state_dependent_noise                    test_sde, tests/policies/test_likelihood
test_cnn::test_cnn                                      test_cnn; learning from images: tests/test_prefine
test_logger::test_set_logger                            test_logger; means over the interval: tests/test_prefine
test_logger::test_ep_buffers_stats_window_size          test_logger
test_logger::test_fps_no_div_zero                       test_logger
test_tensorboard::test_tensorboard                      test_tensorboard; numbered runs: tests/test_prefine
test_custom_policy::test_custom_optimizer               test_custom_policy (also the source's own optimizer)
test_custom_policy: architectures                       test_custom_policy
test_utils, test_run: schedules, devices                test_base_class; a LinearSchedule: tests/test_prefine
not SB3's: log-ratio 0 at first, reference unchanged,   tests/test_prefine, tests/test_families
no non-finite update
======================================================  ================================================================
"""
