"""Why a llama-server ended, and how long its next start waits."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.endings import (
    LOOP_PAUSE,
    LOOP_WINDOW,
    Ending,
    Reason,
    backoff,
    classify,
    looping,
    pause,
    said,
    without_places,
)

MISSING = (
    "0.00.004.064 E gguf_init_from_file: failed to open GGUF file 'nope.gguf' "
    "(No such file or directory)",
    "0.00.004.187 E llama_model_load: error loading model: failed to load model from nope.gguf",
    "0.00.004.563 E srv llama_server: exiting due to model loading error",
)
BROKEN = (
    "0.00.004.072 E gguf_init_from_reader: invalid magic characters: '???', expected 'GGUF'",
    "0.00.004.555 E srv init: exiting due to model loading error",
)
CUT = (
    "0.00.008.331 E llama_model_load: error loading model: tensor 'blk.0.ffn_gate.weight' "
    "data is not within the file bounds, model is corrupted or incomplete",
    "0.00.009.864 E srv init: exiting due to model loading error",
)
PORT = (
    "0.00.002.881 E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18091",
    "0.00.002.933 E srv llama_server: exiting due to HTTP server error",
)
CUDA = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 17000.00 MiB on device 0: "
    "cudaMalloc failed: out of memory",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
)


class ClassifyTests(SynchronousTestCase):
    def assertCause(self, expected: str, code: int | None, signal: int | None, *lines: str) -> None:
        self.assertEqual(str(classify(code, signal, lines)), expected)

    def test_A2_bad_argument(self) -> None:
        """An argument that llama-server does not know is named as that."""
        self.assertCause("bad_argument: exit code 1", 1, None, "error: invalid argument: --frob")

    def test_model_missing(self) -> None:
        """A file that is not there is told apart from one that is broken."""
        self.assertCause("model_missing: exit code 1", 1, None, *MISSING)

    def test_model_broken(self) -> None:
        """What is no GGUF file, or only a part of one, is a broken model."""
        self.assertCause("model_broken: exit code 1", 1, None, *BROKEN)
        self.assertCause("model_broken: exit code 1", 1, None, *CUT)

    def test_A4_port_in_use(self) -> None:
        """A port that another program holds is named as that."""
        self.assertCause("port_in_use: exit code 1", 1, None, *PORT)

    def test_gpu_memory_is_named_before_the_load_that_failed_for_it(self) -> None:
        """Out of GPU memory is the cause, the model that did not load its consequence."""
        self.assertCause("gpu_memory: exit code 1", 1, None, *CUDA)

    def test_an_abort_for_want_of_memory_is_not_a_mere_signal(self) -> None:
        """llama.cpp aborts on a failed CUDA call; its last words tell why."""
        lines = ("CUDA error: out of memory", "ggml-cuda.cu:103: CUDA error")
        self.assertCause("gpu_memory: killed:6 SIGABRT", None, 6, *lines)

    def test_A10_killed_by_the_kernel(self) -> None:
        """A SIGKILL beside a kill for want of memory is one; without it, it is a signal."""
        self.assertIs(classify(None, 9, (), out_of_memory=True).reason, Reason.HOST_MEMORY)
        self.assertCause("signal: killed:9 SIGKILL", None, 9)

    def test_signals_have_names_where_there_are_some(self) -> None:
        """A crash is told by its signal."""
        self.assertCause("signal: killed:11 SIGSEGV", None, 11)
        self.assertCause("signal: killed:60 unnamed signal", None, 60)

    def test_A1_exec_failed(self) -> None:
        """The launcher's last words tell why the program could not be run."""
        line = "rolemesh launcher: cannot run: ENOENT"
        self.assertCause("exec_failed: ENOENT", 127, None, line)

    def test_unknown(self) -> None:
        """An exit without a known cause says its code, also a clean one."""
        self.assertCause("unknown: exit code 3", 3, None, "all is well")
        self.assertCause("unknown: exit code 0", 0, None)

    def test_the_lines_stay_with_the_ending(self) -> None:
        """The last lines and the uptime are kept for whoever asks."""
        ending = classify(1, None, ["a", "b"], uptime=2.5)
        self.assertEqual((ending.lines, ending.uptime), (("a", "b"), 2.5))


def _crash(reason: Reason = Reason.SIGNAL, uptime: float = 30.0, detail: str = "") -> Ending:
    return Ending(reason, detail, (), uptime)


class PauseTests(SynchronousTestCase):
    def test_A3_pauses_double_up_to_the_longest(self) -> None:
        """1, 2, 4 … 60 seconds, for ever."""
        waits = [backoff(n, 1.0, 60.0, 0.0) for n in (1, 2, 3, 6, 7, 8, 10_000)]
        self.assertEqual(waits, [1.0, 2.0, 4.0, 32.0, 60.0, 60.0, 60.0])

    def test_jitter_adds_a_tenth_at_most(self) -> None:
        """The first restart comes within 1.1 seconds, and not before one."""
        self.assertEqual(backoff(1, 1.0, 60.0, 0.0), 1.0)
        self.assertAlmostEqual(backoff(1, 1.0, 60.0, 1.0), 1.1)

    def test_A2_three_equal_quick_exits_wait_longest(self) -> None:
        """What fails at once in the same way three times will not heal in seconds."""
        quick = _crash(Reason.BAD_ARGUMENT, uptime=1.9)
        self.assertEqual(pause([quick] * 2, 1.0, 60.0, 0.0), 2.0)
        self.assertEqual(pause([quick] * 3, 1.0, 60.0, 0.0), 60.0)

    def test_A2_slow_or_different_exits_do_not(self) -> None:
        """Crashes after a while, or for different causes, go on doubling."""
        self.assertEqual(pause([_crash(uptime=2.0)] * 3, 1.0, 60.0, 0.0), 4.0)
        mixed = [_crash(uptime=0.1, detail=d) for d in ("exit code 1", "exit code 2", "killed:9")]
        self.assertEqual(pause(mixed, 1.0, 60.0, 0.0), 4.0)

    def test_A1_a_program_that_cannot_be_run_waits_longest(self) -> None:
        """A missing binary may be an upgrade under way; asking often does not help."""
        self.assertEqual(pause([_crash(Reason.EXEC_FAILED)], 1.0, 60.0, 0.0), 60.0)

    def test_A10_out_of_host_memory_waits_ten_seconds(self) -> None:
        """After the kernel's kill the pause begins at ten seconds, or at the configured longest."""
        killed = [_crash(Reason.HOST_MEMORY)]
        self.assertEqual(pause(killed, 1.0, 60.0, 0.0), 10.0)
        self.assertEqual(pause(killed, 1.0, 5.0, 0.0), 5.0)


class LoopTests(SynchronousTestCase):
    def test_A3_P12_the_sixth_end_in_five_minutes_is_a_loop(self) -> None:
        """Five are bad luck; older ones are forgotten."""
        self.assertFalse(looping([0, 1, 2, 3, 4], 10))
        self.assertTrue(looping([0, 1, 2, 3, 4, 5], 10))
        self.assertFalse(looping([0, 1, 2, 3, 4, 5], LOOP_WINDOW))

    def test_P12_never_more_than_twelve_starts_in_five_minutes(self) -> None:
        """However short the configured pauses, and whenever one looks."""
        now, starts, ends = 0.0, [0.0], []
        while now < 4 * LOOP_WINDOW:
            ends.append(now)
            now += LOOP_PAUSE if looping(ends[-6:], now) else 0.001
            starts.append(now)
        for first in starts:
            within = [start for start in starts if first <= start < first + LOOP_WINDOW]
            self.assertLessEqual(len(within), 12)


class WordsTests(SynchronousTestCase):
    def test_the_line_that_tells_the_cause_is_found(self) -> None:
        """Not the last one, which often says only that it ends."""
        self.assertEqual(said(classify(1, None, MISSING)), MISSING[0])
        self.assertEqual(said(classify(1, None, ("loading", *PORT))), PORT[0])

    def test_where_no_line_tells_it_the_last_one_does(self) -> None:
        """Of an unknown cause; a signal from outside has nothing to do with the log."""
        self.assertEqual(said(classify(1, None, ("one", "two"))), "two")
        self.assertEqual(said(classify(None, 9, ("one", "two"))), "")
        self.assertEqual(said(classify(1, None, ())), "")

    def test_paths_and_addresses_are_taken_out(self) -> None:
        """The name of a file stays, and so does the time at the front of a line."""
        for line, told in (
            (
                "failed to open '/srv/models/q.gguf' (No such)",
                "failed to open '…/q.gguf' (No such)",
            ),
            ("0.00.002.881 E bind 10.0.0.12:18091", "0.00.002.881 E bind ***"),
            ("hostname: 127.0.0.1, port: 1", "hostname: ***, port: 1"),
            ("ratio 3/4, q4_0/f16", "ratio 3/4, q4_0/f16"),
        ):
            self.assertEqual(without_places(line), told)
