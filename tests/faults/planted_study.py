"""Planted bugs in what a study does with its runs, and in what is around it: the lease, signals, workers, MLflow."""

from tests.faults.planted import planted

RESUME = "tests/test_resume.py"
TRIES = "tests/test_tries.py"
JOURNAL = "tests/test_journal.py"
RUNSPEC = "tests/test_runspec.py"
SEARCH = "tests/test_search.py"
LEASE = "tests/test_lease.py"
ONCE = "tests/test_once.py"
TRACKING = "tests/test_tracking.py"
AGAIN = "tests/test_tracking_again.py"
STOPPING = "tests/test_stopping.py"
IN_THE_STUDY = (
    planted(
        "dropout is no part of a run's key",
        "runspec",
        'frozenset({"stage", ',
        'frozenset({"dropout", "stage", ',
        f"{RUNSPEC}::test_everything_that_decides_a_result_changes_the_key",
    ),
    planted(
        "a path is part of a run's key",
        "runspec",
        '{"science": SCIENCE_VERSION}',
        '{"science": SCIENCE_VERSION, "code": __file__}',
        f"{RUNSPEC}::test_the_key_of_a_known_run_stays",
    ),
    planted(
        "the search and the ladder share a seed",
        "stages",
        "SEARCH_SEED = 1_000_003",
        "SEARCH_SEED = 0",
        "tests/test_stages.py::test_every_run_is_what_its_stage_says",
    ),
    planted(
        "all trials of a batch are drawn with one seed",
        "search",
        "_sampler(search, _seed(study, rung, number))",
        "_sampler(search, seed)",
        f"{SEARCH}::test_every_study_rung_and_number_draws_for_itself",
    ),
    planted(
        "the seed of a search differs between processes",
        "search",
        "int(digest([study, rung, number])[:8], 16)",
        "hash((study, rung, number)) % 2**32",
        f"{SEARCH}::test_another_process_suggests_the_same",
    ),
    planted(
        "trials are told in the order in which they ended",
        "search",
        "sorted(finished, key=lambda t: t.number)",
        "finished",
        f"{SEARCH}::test_the_same_history_gives_the_same_rates",
    ),
    planted(
        "a failed run counts as done",
        "record",
        '"pruned", "diverged"})',
        '"pruned", "diverged", "failed"})',
        "tests/test_record.py::test_which_endings_stand",
    ),
    planted(
        "what comes again after a checkpoint is kept twice",
        "record",
        'if e["index"] < known]',
        'if e["index"] <= known]',
        f"{RESUME}::test_the_record_forgets_what_comes_again",
    ),
    planted(
        "failed runs are tried behind everybody's back",
        "tries",
        "set() if retry else failed",
        "set()",
        f"{TRIES}::test_a_failed_run_stays_failed_until_it_is_asked_for",
    ),
    planted(
        "a checkpoint is used that the record is behind",
        "execute",
        'elif one.facts["events"] <= known:',
        "else:",
        f"{ONCE}::test_a_checkpoint_that_the_record_is_behind_is_not_gone_on_from",
    ),
    planted(
        "a run is chosen again at every start",
        "execute",
        "if spec.key not in self.record.selected:",
        "if spec.key:",
        f"{ONCE}::test_a_study_that_has_ended_adds_no_line_when_it_is_started_again",
    ),
    planted(
        "secrets go into the record",
        "execute",
        "fields if kind in VERBATIM else censored(fields)",
        "fields",
        "tests/test_text.py::test_no_secret_reaches_the_record",
    ),
    planted(
        "a key may be given twice",
        "_yaml",
        "if key in built:",
        "if not key:",
        "tests/test_study_file.py",
    ),
)

AROUND_IT = (
    planted(
        "the lock is shared",
        "lease",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        f"{LEASE}::test_a_second_driver_is_refused_and_a_killed_one_is_taken_over_at_once",
    ),
    planted(
        "the heart beats over the lease of another",
        "lease",
        "        if not self.is_own:\n            self.lost.set()\n            return\n",
        "",
        f"{LEASE}::test_no_sign_of_life_is_written_over_the_lease_of_another",
    ),
    planted(
        "who has lost the lease writes on",
        "journal",
        "        self._guard()\n",
        "",
        f"{JOURNAL}::test_nothing_is_written_when_the_guard_says_no",
    ),
    planted(
        "the second Ctrl-C is swallowed",
        "signals",
        "            os._exit(stopped.code)",
        "            return",
        f"{STOPPING}::test_the_first_signal_asks_the_study_to_stop_and_the_second_ends_it_with_the_code_of_the_first",
    ),
    planted(
        "a worker outlives its driver",
        "workers",
        "        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)\n",
        "",
        f"{STOPPING}::test_a_worker_ends_with_its_driver_whatever_it_is_doing",
    ),
    planted(
        "metrics are logged again",
        "tracking",
        " for at in run.metrics if at not in stored.written]",
        " for at in run.metrics]",
        f"{TRACKING}::test_cut_anywhere_and_repeated_is_the_same",
    ),
    planted(
        "the store is marked as level before it is",
        "tracking",
        "        for run in self._fold.in_order():\n            self._reconcile(run)\n        assert self._client is not None\n",
        "        assert self._client is not None\n"
        "        if STUDY in self._stored:\n"
        "            self._client.set_tag(self._stored[STUDY][0].run_id, POSITION, str(self._line))\n"
        "        for run in self._fold.in_order():\n"
        "            self._reconcile(run)\n",
        f"{TRACKING}::test_cut_anywhere_and_repeated_is_the_same",
    ),
    planted(
        "what was killed stays RUNNING",
        "tracking",
        "            self._fold.cut_off()\n",
        "",
        f"{AGAIN}::test_what_a_killed_process_left_open_is_ended_and_goes_on_with_the_study",
    ),
    planted(
        "a run that is there twice is let be",
        "tracking",
        "            if stored is not kept:",
        "            if stored is None:",
        f"{AGAIN}::test_a_run_that_is_there_twice_is_taken_out_by_the_next_sync",
    ),
    planted(
        "the password of an address is shown",
        "text",
        "for pattern, shown in _SECRETS:",
        "for pattern, shown in _SECRETS[1:]:",
        "tests/test_text.py::test_secrets_are_left_out",
    ),
)
