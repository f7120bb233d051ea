"""Planted bugs in what is written to disk, and in training and its going on."""

from tests.faults.planted import planted

POWER = "tests/test_power_cut.py"
RESUME = "tests/test_resume.py"
TRIES = "tests/test_tries.py"
JOURNAL = "tests/test_journal.py"
TRAIN = "tests/test_train.py"
ONCE = "tests/test_once.py"
BATCHES = "tests/test_batches.py"
ON_DISK = (
    planted(
        "a file is renamed before it is synced",
        "durable",
        "os.fsync(file.fileno())",
        "pass",
        f"{POWER}::test_a_replaced_file_is_durable_before_it_has_its_name_and_its_name_is_too",
    ),
    planted(
        "the folder of a renamed file is not synced",
        "durable",
        "    sync_folder(path.parent)",
        "    return",
        f"{POWER}::test_a_replaced_file_is_durable_before_it_has_its_name_and_its_name_is_too",
    ),
    planted(
        "a file is written in place",
        "durable",
        'aside = aside or path.with_name(path.name + ".part")',
        "aside = path",
        "tests/test_durable.py::test_a_file_that_can_not_be_replaced_stays_and_nothing_lies_beside_it",
    ),
    planted(
        "results.csv is written in place",
        "results",
        'durable.replace(path, text.encode("utf-8", "backslashreplace"), "results")',
        'path.write_bytes(text.encode("utf-8", "backslashreplace"))',
        f"{POWER}::test_the_flat_result_is_never_half_there",
    ),
    planted(
        "an end is not synced",
        "journal",
        '                os.fsync(self._file.fileno())\n                failpoint("journal.synced")',
        '                failpoint("journal.synced")',
        f"{POWER}::test_what_changes_the_state_of_a_study_is_durable_with_all_before_it",
    ),
    planted(
        "ends of runs are not among what is synced",
        "journal",
        '"run_resumed", "run_ended", ',
        '"run_resumed", ',
        f"{POWER}::test_a_run_is_told_as_ended_only_when_its_weights_and_its_end_are_durable",
    ),
    planted(
        "a torn last line is kept",
        "journal",
        "            file.truncate(keep)",
        "            pass",
        f"{JOURNAL}::test_every_cut_of_the_end_recovers_whole_lines_and_appending_goes_on",
    ),
    planted(
        "checksums are not looked at",
        "journal",
        'if not raw.endswith(b"\\n") or checksum != b"%08x" % zlib.crc32(payload):',
        'if not raw.endswith(b"\\n"):',
        f"{JOURNAL}::test_a_flipped_bit_is_refused_by_its_line_and_nothing_changes_on_disk",
    ),
    planted(
        "lines wait in this process",
        "journal",
        'open(path, "ab", buffering=0)',
        'open(path, "ab", buffering=4096)',
        JOURNAL,
    ),
    planted(
        "a full disk leaves a part of a line",
        "journal",
        "            self._file.truncate(self._end)",
        "            pass",
        f"{JOURNAL}::test_a_full_disk_leaves_whole_lines_and_the_record_can_go_on",
    ),
    planted(
        "a sync that failed is tried again",
        "journal",
        '            self._is_whole = False\n            failpoint("journal.written")',
        '            failpoint("journal.written")',
        f"{JOURNAL}::test_an_fsync_that_failed_is_not_tried_again",
    ),
    planted(
        "a checkpoint is renamed before its names are durable",
        "checkpoint",
        "        durable.sync_folder(aside)\n",
        "",
        f"{POWER}::test_checkpoints_and_weights_are_durable_when_they_are_said_to_be",
    ),
    planted(
        "manifests are not looked at",
        "checkpoint",
        "if manifest != _manifest(step, contents):",
        "if not manifest:",
        f"{RESUME}::test_damage_of_any_kind_falls_back_to_the_one_before",
    ),
    planted(
        "old checkpoints go before the new one has its name",
        "checkpoint",
        '            failpoint("checkpoint.rename")\n',
        "            for old in _checkpoints(folder).values():\n"
        "                _discard(old)\n"
        '            failpoint("checkpoint.rename")\n',
        f"{RESUME}::test_killed_anywhere_while_saving_a_whole_checkpoint_is_left",
    ),
    planted(
        "one checkpoint is kept, not two",
        "checkpoint",
        "KEPT = 2",
        "KEPT = 1",
        f"{RESUME}::test_the_last_two_are_kept_and_an_ended_run_leaves_only_its_best_weights",
    ),
    planted(
        "runs that lost a part of their story count as done",
        "repair",
        "void = tuple(sorted(_incomplete(kept)))",
        "void: tuple[str, ...] = ()",
        "tests/test_repair.py",
    ),
)

STAYS = f"{RESUME}::test_padding_counted_resumes_too"
BACK = f"{RESUME}::test_everything_that_moves_is_kept_and_put_back"
IN_TRAINING = (
    planted(
        "dropout draws from the global generator",
        "step",
        "        torch.manual_seed(step_seed(spec.seed, step))\n",
        "",
        STAYS,
    ),
    planted(
        "every step has the same dropout masks",
        "step",
        "SeedSequence([seed, step])",
        "SeedSequence([seed])",
        f"{TRAIN}::test_dropout_masks_follow_from_seed_and_step_alone",
    ),
    planted(
        "initial weights are not seeded",
        "state",
        "    torch.manual_seed(spec.seed)\n",
        "",
        f"{TRAIN}::test_one_spec_has_one_result_to_the_bit",
    ),
    planted(
        "the order of an epoch is drawn from the global generator",
        "data/batches",
        "np.random.Generator(np.random.PCG64([seed, epoch, ORDER_STREAM])).permutation(n_texts)",
        "np.random.permutation(n_texts)",
        f"{BATCHES}::test_rows_depend_on_the_step_alone",
    ),
    planted(
        "every epoch has the order of the first",
        "data/batches",
        "[seed, epoch, ORDER_STREAM]",
        "[seed, ORDER_STREAM]",
        f"{BATCHES}::test_seeds_and_epochs_shuffle_differently",
    ),
    planted(
        "texts are drawn without a seed",
        "generate",
        "np.random.default_rng([seed, round(temperature * 1e6)])",
        "np.random.default_rng()",
        "tests/test_generate.py::test_a_text_depends_on_nothing_that_is_drawn_beside_it",
    ),
    planted(
        "the optimizer's moments are forgotten",
        "state",
        '    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": _moments(_group(saved.tensors, MOMENTS))})\n',
        "",
        STAYS,
    ),
    planted(
        "the last weights come back as the best",
        "state",
        "_group(saved.tensors, BEST).items()",
        "_group(saved.tensors, MODEL).items()",
        BACK,
    ),
    planted(
        "the losses so far are forgotten",
        "state",
        '[(step, loss) for step, loss in facts["history"]]',
        "[]",
        BACK,
    ),
    planted(
        "the watch for divergence begins anew",
        "state",
        '    state.monitor = DivergenceMonitor.from_dict(facts["monitor"])\n',
        "",
        BACK,
    ),
    planted(
        "patience begins anew",
        "state",
        '    "stale",\n',
        "",
        BACK,
    ),
    planted(
        "points since the last evaluation are forgotten",
        "state",
        '[tuple(point) for point in facts["points"]]',
        "[]",
        STAYS,
    ),
    planted(
        "the number of an event is not counted on",
        "context",
        "    state.events += 1\n",
        "",
        f"{ONCE}::test_every_event_of_a_run_has_a_number_of_its_own_and_every_step_one_point",
    ),
    planted(
        "points are told again with the next ones",
        "milestones",
        "        state.points.clear()\n",
        "",
        f"{ONCE}::test_every_event_of_a_run_has_a_number_of_its_own_and_every_step_one_point",
    ),
    planted(
        "the best weights go on changing",
        "milestones",
        "tensor.detach().clone()",
        "tensor.detach()",
        f"{TRAIN}::test_the_best_weights_are_kept_and_score_as_recorded",
    ),
    planted(
        "a diverged run is told as completed",
        "milestones",
        'return "diverged", f"validation loss',
        'return "completed", f"validation loss',
        f"{TRAIN}::test_a_run_that_breaks_at_its_very_last_step_has_diverged",
    ),
    planted(
        "a part of a batch counts as any other",
        "step",
        "* (n / int(lengths.sum()))",
        "/ min(micro_batches, len(rows))",
        f"{TRIES}::test_a_batch_in_parts_is_the_same_batch",
    ),
    planted(
        "every part of a batch has masks of its own",
        "step",
        "part_of_batch(state.model, first, drawn_tokens(int(lengths.sum()), device))",
        "part_of_batch(state.model, 0, n)",
        f"{TRIES}::test_a_batch_in_parts_is_the_same_batch",
    ),
)
