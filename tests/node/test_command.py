"""The command line and the environment of a llama-server."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import GpuChoice, Run
from rolemesh.node.command import command_line, environment, secrets_of

NO_GPU, FIRST_GPU = GpuChoice(), GpuChoice(names=(0,))


def run(gpu: GpuChoice = NO_GPU, **fields: object) -> Run:
    return Run("gpu0", "qwen3", Path("/models/q.gguf"), gpu, **fields)  # type: ignore[arg-type]


class CommandLineTests(SynchronousTestCase):
    def test_the_whole_line(self) -> None:
        """Program, file, address, alias, slots, the context of all slots, the file's args last."""
        entry = run(
            FIRST_GPU,
            slots=4,
            context=65536,
            args=("--flash-attn", "on"),
            llama_server=("nice", "llama-server"),
        )
        self.assertEqual(
            " ".join(command_line(entry, "127.0.0.1", 18100)),
            "nice llama-server --model /models/q.gguf --host 127.0.0.1 --port 18100 --alias qwen3 "
            "--parallel 4 --metrics --slots -c 262144 -ngl 99 --flash-attn on",
        )

    def test_no_context_leaves_it_to_the_model(self) -> None:
        """Without a context in the file none is asked for."""
        self.assertNotIn("-c", command_line(run(), "127.0.0.1", 1))

    def test_layers_are_ours_only_with_a_gpu_and_without_theirs(self) -> None:
        """-ngl is added for a named GPU, unless the file's args say how many layers."""
        self.assertNotIn("-ngl", command_line(run(), "127.0.0.1", 1))
        for theirs in ("-ngl", "--gpu-layers", "--n-gpu-layers=20"):
            line = command_line(run(FIRST_GPU, args=(theirs, "20")), "127.0.0.1", 1)
            self.assertNotIn("99", line)


class EnvironmentTests(SynchronousTestCase):
    def test_the_key_travels_in_the_environment_alone(self) -> None:
        """It is not on the command line, where every user of the machine could read it."""
        self.assertEqual(environment({}, run(), "k3y", ())["LLAMA_API_KEY"], "k3y")
        self.assertNotIn("k3y", " ".join(command_line(run(), "127.0.0.1", 1)))

    def test_A18_gpus_are_bound_by_uuid(self) -> None:
        """Named GPUs are the only ones that the server sees, in the file's order."""
        env = environment({"CUDA_VISIBLE_DEVICES": "7"}, run(FIRST_GPU), "k", ("GPU-b", "GPU-a"))
        self.assertEqual(env["CUDA_VISIBLE_DEVICES"], "GPU-b,GPU-a")

    def test_without_a_gpu_the_variable_is_left_alone(self) -> None:
        """Where the file names none, the machine's own setting holds."""
        self.assertNotIn("CUDA_VISIBLE_DEVICES", environment({}, run(), "k", ()))

    def test_gpu_none_hides_all(self) -> None:
        """`none` is said to the server too, whatever the machine's own setting."""
        hidden = run(GpuChoice(none=True))
        env = environment({"CUDA_VISIBLE_DEVICES": "7"}, hidden, "k", ())
        self.assertEqual(env["CUDA_VISIBLE_DEVICES"], "")

    def test_the_files_variables_come_over_the_agents(self) -> None:
        """`env` of the file wins over what the agent inherited, and the key over both."""
        entry = run(env={"A": "file", "LLAMA_API_KEY": "file"})
        env = environment({"A": "agent", "B": "agent"}, entry, "ours", ())
        self.assertEqual(env, {"A": "file", "B": "agent", "LLAMA_API_KEY": "ours"})

    def test_keys_of_the_mesh_are_not_the_server_s(self) -> None:
        """A server inherits no key, token or database of the mesh, under whatever name."""
        token = "rmn_ab23cd45_" + "x" * 43
        ours = {"ROLEMESH_KEY": "k", "ROLEMESH_ADMIN_KEY": "k", "ROLEMESH_STORE": "postgresql://x"}
        env = environment({**ours, "MY_TOKEN": f"{token}\n", "HOME": "/x"}, run(), "own", ())
        self.assertEqual(env, {"HOME": "/x", "LLAMA_API_KEY": "own"})

    def test_secrets_are_known_by_their_names(self) -> None:
        """Our key and what `env` calls a key, token, secret or password stay out of the log."""
        entry = run(env={"HF_TOKEN": "t", "GGML_DEBUG": "1"})
        self.assertEqual(secrets_of(entry, "k"), ["k", "t"])
